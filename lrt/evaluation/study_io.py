"""The raw record on disk: one jsonl file a behaviour, from which every report can be made again.

The first line is the study itself (chosen strength, counts, the digest of what follows), then a line for
each measurement and each damage. The file appears under its name only when it is whole (until then
`lrt.evaluation.journal` has what was measured).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import Damage, Measurement
from lrt.evaluation.study import StrengthChoice, Study
from lrt.storage.durable import write_durably
from lrt.storage.sealed import Altered, opened, sealed_line, unsealed


class RecordCorrupt(ValueError):
    """A measurement file that is not whole; the message names it and how to fix it."""


def kept_study(file: Path, make: Callable[[Journal], Study]) -> Study:
    """The study in `file`, or the one that `make` gives, written there. Batches that `make` hands to its
    journal are found again where it is stopped, and of two processes that want the same study one measures
    it.

    Raises `RecordCorrupt` for a file that is not whole.
    """
    kept = file.with_suffix(".journal")
    if not file.is_file():
        with Journal(kept) as journal:
            if not file.is_file():  # another process may have been at it until now
                write_study(file, make(journal))
    if kept.is_file():  # that of a run that ended before this line, too
        kept.unlink(missing_ok=True)
    return read_study(file)


def write_study(file: Path, study: Study) -> None:
    """Writes one study; the folder is made if missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = (*map(asdict, study.measurements), *map(asdict, study.damages))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    head = {
        "study": study.behaviour,
        "split": study.split,
        "choice": asdict(study.choice),
        "measurements": len(study.measurements),
        "damages": len(study.damages),
        "sha256": hashlib.sha256(lines).hexdigest(),  # of the lines below
    }
    write_durably(file, sealed_line(head) + lines)


def read_study(file: Path) -> Study:
    """Reads one study; raises `RecordCorrupt` naming the file where it is not whole."""
    try:
        first, _, rest = file.read_bytes().partition(b"\n")
        head = unsealed(opened(first))
        if hashlib.sha256(rest).hexdigest() != head["sha256"]:
            raise Altered("its rows do not match their digest")
        # not splitlines: a generated text may hold U+2028 and its like
        rows = [json.loads(line) for line in rest.decode().removesuffix("\n").split("\n") if line]
        cut = head["measurements"]
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
