"""What was measured of a study that is not whole yet, so that one that is stopped goes on where it was."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from lrt.evaluation.measuring import Damage, Measurement
from lrt.storage.durable import sync_folder
from lrt.storage.sealed import opened, sealed_line, unsealed

Row = TypeVar("Row", Measurement, Damage)
KEY, ROWS = "batch", "rows"
log = logging.getLogger(__name__)


class Journal:
    """Batches of rows, a jsonl line each, on disk before the next batch begins.

    The file's name has to tell one study's settings from another's. Each line holds a digest of itself: one
    that a kill tore or that was altered, and what follows it, is measured again. Without a file nothing is
    kept. One process has a journal at a time: another waits for it, and has to look then whether there is
    anything left to measure. A dead one holds nothing.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._found: dict[str, list[dict[str, Any]]] = {}
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        self._opened = file.open("ab+")
        try:
            fcntl.flock(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process measures into %s: waiting for it", file)
            fcntl.flock(self._opened, fcntl.LOCK_EX)
        sync_folder(file.parent)
        whole = 0
        self._opened.seek(0)
        for line in self._opened.read().splitlines(keepends=True):
            entry = _entry(line)
            if entry is None:
                break
            self._found[entry[KEY]] = entry[ROWS]
            whole += len(line)
        self._opened.truncate(whole)

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
            self._opened.write(sealed_line({KEY: key, ROWS: [asdict(row) for row in rows]}))
            self._opened.flush()
            os.fsync(self._opened.fileno())
        return rows

    def close(self) -> None:
        """Lets another process have it."""
        if self.file is not None:
            self._opened.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is torn or altered."""
    try:
        return unsealed(opened(line)) if line.endswith(b"\n") else None
    except ValueError:
        return None
