"""Cache of facts about model files: its folder, and the digests of large files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path

from lrt.storage.durable import write_durably

log = logging.getLogger(__name__)

# A smaller file is hashed in a tenth of a second, so its digest is not cached.
CACHED_FROM_BYTES = 64 << 20
# A file rewritten within the file system's clock resolution can have the times of its first version.
SETTLED_SECONDS = 2.0


def cache_folder(folder: Path | str | None = None) -> Path:
    """The cache folder: `folder`, else the environment's `LRT_CACHE`, else `~/.cache/lrt`."""
    return Path(folder or os.environ.get("LRT_CACHE") or "~/.cache/lrt").expanduser()


def file_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file, in hex.

    The digest of a large file is cached under `cache`. It is reused while the file's size, inode and both
    change times (of content and of inode, which cannot be set back) are the same. Where the cache cannot be
    written, a warning is logged and the next run hashes the file again.
    """
    before = file_state(path)
    entry = cache / "digests" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
    if before["size"] >= CACHED_FROM_BYTES and entry.is_file():
        cached = _read(entry)
        if cached is not None and cached["file"] == before:
            return str(cached["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    age = time.time() - before["changed_ns"] / 1e9
    if before["size"] >= CACHED_FROM_BYTES and before == file_state(path) and age > SETTLED_SECONDS:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_durably(entry, json.dumps({"file": before, "sha256": digest}).encode())
        except OSError as error:
            log.warning(
                "the digest of %s was not cached, so the next run hashes the file again: %s", path, error
            )
    return digest


def file_state(path: Path) -> dict[str, int]:
    """A file's size, inode and change times: as long as they are the same, so is its content."""
    stat = path.stat()
    return {
        "size": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "changed_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def _read(entry: Path) -> dict[str, object] | None:
    """Content of a cache entry; None for a damaged one, which is then replaced."""
    try:
        content = json.loads(entry.read_text())
        return content if {"file", "sha256"} <= content.keys() else None
    except (ValueError, AttributeError, OSError):
        return None
