"""What was measured of a study that is not whole yet, so that one that is stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from lrt.evaluation.measuring import Damage, Measurement

Row = TypeVar("Row", Measurement, Damage)


class Journal:
    """Batches of rows, a jsonl line each, on disk before the next batch begins.

    The file's name has to tell one study's settings from another's. A line that a kill tore, and what
    follows it, is measured again. Without a file nothing is kept.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._found: dict[str, list[dict[str, Any]]] = {}
        if file is None:
            return
        whole = 0
        if file.is_file():
            for line in file.read_bytes().splitlines(keepends=True):
                entry = _entry(line)
                if entry is None:
                    break
                self._found |= entry
                whole += len(line)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.truncate(file, whole)

    @property
    def kept(self) -> int:
        """Batches that are there."""
        return len(self._found)

    def batch(self, key: str, kind: type[Row], make: Callable[[], list[Row]]) -> list[Row]:
        """The rows kept under `key`, or those that `make` gives, kept from here on."""
        if key in self._found:
            return [kind(**row) for row in self._found[key]]
        rows = make()
        if self.file is not None:
            with self.file.open("ab") as opened:
                opened.write(json.dumps({key: [asdict(row) for row in rows]}).encode() + b"\n")
                opened.flush()
                os.fsync(opened.fileno())
        return rows

    def remove(self) -> None:
        """Once the study is on disk as a whole."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is torn."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
