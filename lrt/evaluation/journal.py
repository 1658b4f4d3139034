"""A journal of measured batches, so that a stopped study resumes where it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from lrt.evaluation.measuring import Damage, Measurement
from lrt.storage.durable import open_own, sync_folder
from lrt.storage.sealed import opened, sealed_line, unsealed

Row = TypeVar("Row", Measurement, Damage)
KEY, ROWS = "batch", "rows"


class Journal:
    """Batches of rows, one jsonl line each, on disk before the next batch begins.

    - The file's name must identify the study's settings. Without a file nothing is stored.
    - Each line holds its own digest. A torn or altered line, and all after it, are measured again.
    - One process uses a journal at a time; `lrt.storage.cache.Cache.resumed` sees to that.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._batches: dict[str, list[dict[str, Any]]] = {}
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        self._opened = open_own(file, "ab+")
        sync_folder(file.parent)
        intact = 0
        self._opened.seek(0)
        for line in self._opened.read().splitlines(keepends=True):
            entry = _entry(line)
            if entry is None:
                break
            self._batches[entry[KEY]] = entry[ROWS]
            intact += len(line)
        self._opened.truncate(intact)

    @property
    def stored(self) -> int:
        """Number of batches read from the file."""
        return len(self._batches)

    def batch(self, key: str, kind: type[Row], make: Callable[[], list[Row]]) -> list[Row]:
        """The rows stored under `key`; else those that `make` returns, which are then stored."""
        if key in self._batches:
            return [kind(**row) for row in self._batches[key]]
        rows = make()
        if self.file is not None:
            self._opened.write(sealed_line({KEY: key, ROWS: [asdict(row) for row in rows]}))
            self._opened.flush()
            os.fsync(self._opened.fileno())
        return rows

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self._opened.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line's content; None where it is torn or altered."""
    try:
        return unsealed(opened(line)) if line.endswith(b"\n") else None
    except ValueError:
        return None
