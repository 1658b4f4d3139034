"""The raw record on disk: one jsonl file a behaviour, from which every report can be made again.

The first line is the study itself (chosen strength, counts), then a line for each measurement and
each damage. The file appears under its name only when it is whole (until then `lrt.evaluation.journal`
has what was measured).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lrt.durable import write_durably
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import Damage, Measurement
from lrt.evaluation.study import StrengthChoice, Study


class RecordCorrupt(ValueError):
    """A measurement file that is not whole; the message names it and how to mend it."""


def kept_study(file: Path, make: Callable[[Journal], Study]) -> Study:
    """The study in `file`, or the one that `make` gives, written there. Batches that `make` hands to its
    journal are found again where it is stopped.

    Raises `RecordCorrupt` for a file that is not whole.
    """
    if not file.is_file():
        journal = Journal(file.with_suffix(".journal"))
        write_study(file, make(journal))
        journal.remove()
    return read_study(file)


def write_study(file: Path, study: Study) -> None:
    """Writes one study; the folder is made if missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "study": study.behaviour,
        "split": study.split,
        "choice": asdict(study.choice),
        "measurements": len(study.measurements),
        "damages": len(study.damages),
    }
    rows = (head, *map(asdict, study.measurements), *map(asdict, study.damages))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_durably(file, lines.encode())


def read_study(file: Path) -> Study:
    """Reads one study; raises `RecordCorrupt` naming the file where it is not whole."""
    try:
        # not splitlines: a generated text may hold U+2028 and its like
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        head, *rows = map(json.loads, lines)
        cut = head["measurements"]
        if len(rows) != cut + head["damages"]:
            raise ValueError(f"{len(rows)} rows where {cut + head['damages']} were written")
        return Study(
            head["study"],
            StrengthChoice(**head["choice"] | {"by_layer": tuple(map(tuple, head["choice"]["by_layer"]))}),
            tuple(Measurement(**row) for row in rows[:cut]),
            tuple(Damage(**row) for row in rows[cut:]),
            head["split"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RecordCorrupt(
            f"the measurements in {file} cannot be read ({error}); delete the file and run evaluate.py again"
        ) from error
