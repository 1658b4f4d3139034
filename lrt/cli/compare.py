"""`lrt compare`: two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lrt.errors import InvalidValue


def compare(
    a: Annotated[
        str,
        typer.Argument(
            help="A report's folder, its results.json, or a name from `lrt list`.", show_default=False
        ),
    ],
    b: Annotated[str, typer.Argument(help="Another one.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Folder for the page, as HTML, Markdown and JSON.")] = Path(
        "comparison"
    ),
) -> None:
    """Compare two runs: their differences, and which of them the intervals do not separate.

    \b
    Examples:
      lrt compare outputs/2026-11-28/10-00-00/report report
      lrt compare report~2 report --to adamw-or-ridge
    """
    from lrt.cli.terminal import open_terminal
    from lrt.report import (
        comparison_headline,
        comparison_warnings,
        difference_table,
        differences,
        separations,
        write_comparison,
    )

    console = open_terminal()
    runs = (_results(a), _results(b))
    page = write_comparison(*runs, (a, b), to)
    found = differences(*runs)
    console.print(comparison_headline(found), style="bold", markup=False)
    for title, text in separations(found):
        console.print(f"{title}: {text}", markup=False)
    for warning in comparison_warnings(*runs):
        console.print(warning, style="yellow", markup=False)
    if found:
        console.print(difference_table(found), soft_wrap=False)
    console.print(f"page: {page}", markup=False)


def _results(run: str) -> dict[str, Any]:
    from lrt.storage.catalogue import artifact_path
    from lrt.storage.text_files import read_json

    path = artifact_path(run, kind="report")
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise InvalidValue(
            f"{path} holds no results.json; name a report's folder, as `lrt train evaluate=true` writes it"
        )
    results = read_json(file)
    behaviours = results.get("behaviours") if isinstance(results, dict) else None
    if not isinstance(behaviours, list) or not all(isinstance(b, dict) and "name" in b for b in behaviours):
        raise InvalidValue(
            f"{file} is no report of a run: it lists no behaviours. Name the results.json that "
            "`lrt train evaluate=true` or `lrt evaluate` wrote"
        )
    return dict(results)
