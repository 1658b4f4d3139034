"""A study on disk: one jsonl file a behaviour, from which every report can be made again.

The first line holds the choice of strength, the counts and the digest of the rest. A line for each
measurement and each damage follows. A file beside it holds the items, which measurements name by id. The file
of measurements is complete as soon as it exists; until then the measured batches are in a
`lrt.evaluation.journal`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour, ItemSplit
from lrt.evaluation.choice import StrengthChoice, Trial
from lrt.evaluation.measuring import Damage, Measurement
from lrt.evaluation.study import Study
from lrt.storage.durable import write_durably
from lrt.storage.sealed import Altered, opened, read_file, sealed_line, unsealed


class RecordCorrupt(InvalidValue):
    """A file of measurements that is damaged; the message names it and the fix."""


def write_study(file: Path, study: Study) -> None:
    """Write one study, in a folder that is made if missing."""
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


def items_beside(file: Path) -> Path:
    """Where the items of a file of measurements lie: `items-NAME.jsonl` beside `NAME.jsonl`."""
    return file.with_name(f"items-{file.name}")


def write_items(file: Path, behaviour: Behaviour, by_source: Behaviour | None = None) -> None:
    """Write the items that measurements name by id, one a line: split, prompt, key and answers.

    Only people and other programs read the file.

    by_source  The behaviour as the source reads it. Where its prompts differ, each stands as
               `source_prompt` beside the target's, whose id the source's measurements have.
    """
    lines = []
    for split in get_args(ItemSplit):
        items = behaviour.items_of(split)
        versions = by_source.items_of(split) if by_source else items
        for item, version in zip(items, versions, strict=True):
            line = {"item": item.id, "split": split, **asdict(item)}
            if version.prompt != item.prompt:
                line["source_prompt"] = version.prompt
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_durably(file, "".join(lines).encode())


def read_study(file: Path) -> Study:
    """Read one study. Raises `RecordCorrupt`, naming the file, where it is damaged."""
    try:
        first, _, rest = read_file(file).partition(b"\n")
        head = unsealed(opened(first))
        if hashlib.sha256(rest).hexdigest() != head["sha256"]:
            raise Altered("its rows do not match their digest")
        # not splitlines: a generated text may hold U+2028 and its like
        rows = [json.loads(line) for line in rest.decode().removesuffix("\n").split("\n") if line]
        cut = head["measurements"]
        return Study(
            head["study"],
            _choice(head["choice"]),
            tuple(Measurement(**row) for row in rows[:cut]),
            tuple(Damage(**row) for row in rows[cut:]),
            head["split"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordCorrupt(
            f"the measurements in {file} cannot be read ({error}); delete the file and run evaluate.py again"
        ) from error


def _choice(data: dict[str, Any]) -> StrengthChoice:
    trials = tuple(Trial(**trial) for trial in data.get("trials", ()))  # published rows may have none
    return StrengthChoice(**data | {"by_layer": tuple(map(tuple, data["by_layer"])), "trials": trials})
