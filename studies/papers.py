"""Takes results files of published settings into the docs, and writes their page.

python -m studies.papers FILE...

Each file goes into docs/results/papers; `make reproduce-papers SETTING=NAME` writes one. Without files the
page is written anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lrt.cli.terminal import print_error
from lrt.errors import UserError
from lrt.report.papers import check_file, papers_page
from lrt.report.plain import to_json
from lrt.storage.durable import write_durably
from lrt.storage.text_files import read_json

DOCS = Path(__file__).parent.parent / "docs" / "results"


def take_in(file: Path, folder: Path) -> Path:
    """Copies a results file under the name of its setting, machine and date. Raises UserError."""
    record = read_json(file)
    check_file(record, str(file))
    made = record["provenance"]
    parts = (record["setting"], str(made.get("machine")).lower(), str(made.get("date"))[:10])
    name = "-".join("".join(c if c.isalnum() or c == "_" else "-" for c in part).strip("-") for part in parts)
    place = folder / f"{name}.json"
    write_durably(place, to_json(record))
    return place


def records(folder: Path) -> dict[str, Any]:
    """The results files of a folder, by their names."""
    return {file.stem: read_json(file) for file in sorted(folder.glob("*.json"))}


def main(arguments: list[str] | None = None, docs: Path = DOCS) -> int:
    """0, or 1 for a file that cannot be taken in."""
    parser = argparse.ArgumentParser(prog="python -m studies.papers", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="results files of published settings")
    folder = docs / "papers"
    folder.mkdir(exist_ok=True)
    try:
        for file in parser.parse_args(arguments).files:
            print(take_in(file, folder))
        write_durably(docs / "papers.md", papers_page(records(folder)).encode())
    except UserError as error:
        print_error(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
