"""What is kept of model files between runs: where it lies, and the digest of a file that has not changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path

from lrt.storage.durable import write_durably

log = logging.getLogger(__name__)

# A smaller file is hashed in a tenth of a second; nothing is written down for it.
_WORTH_NOTING_BYTES = 64 << 20
# A file written again within the clock's grain of its first writing keeps its times.
_SETTLED_SECONDS = 2.0


def cache_folder(given: Path | str | None = None) -> Path:
    """The folder of what is kept: the one given, `LRT_CACHE`, or `~/.cache/lrt`."""
    return Path(given or os.environ.get("LRT_CACHE") or "~/.cache/lrt").expanduser()


def file_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file, in hex.

    That of a large file is noted under `cache` and believed as long as the file's size, times of
    change (of content and of inode, which cannot be set back) and inode are the same. A note that
    cannot be written costs the next run its seconds and nothing else.
    """
    before = _state(path)
    note = cache / "digests" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
    if before["size"] >= _WORTH_NOTING_BYTES and note.is_file():
        found = _read(note)
        if found is not None and found["file"] == before:
            return str(found["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    age = time.time() - before["changed_ns"] / 1e9
    if before["size"] >= _WORTH_NOTING_BYTES and before == _state(path) and age > _SETTLED_SECONDS:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_durably(note, json.dumps({"file": before, "sha256": digest}).encode())
        except OSError as error:
            log.warning("%s will be hashed again at the next start: %s", path, error)
    return digest


def _state(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {
        "size": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "changed_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def _read(note: Path) -> dict[str, object] | None:
    """A note's content; None where it is none (it is made anew then)."""
    try:
        found = json.loads(note.read_text())
        return found if {"file", "sha256"} <= found.keys() else None
    except (ValueError, AttributeError, OSError):
        return None
