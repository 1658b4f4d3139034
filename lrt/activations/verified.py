"""Compare a store's contents with its checksums once, and again only where a file has changed since."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

from lrt.activations.errors import StoreBusy, StoreUnwritable
from lrt.activations.store import ActivationStore
from lrt.models.cache import SETTLED_SECONDS, file_state
from lrt.storage.durable import write_durably
from lrt.storage.locks import one_writer

VERIFIED = "verified.json"
log = logging.getLogger(__name__)


def verify_once(
    store: ActivationStore, folder: Path, reading: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> None:
    """`store.verify(full=True)`, but only where a file has changed since this last succeeded.

    A note holds each file's size, inode and change times. Of several processes one reads, and the others wait
    for its note. Damage that leaves these as they were shows with `lrt verify` alone.

    folder   Where the note is kept. One that cannot be written has none, and everything is read every time.
    reading  Held while the contents are read.

    Raises StoreCorrupt for the first damaged file.
    """
    with ExitStack() as held:
        try:
            held.enter_context(
                one_writer(folder, "checking states, noted in", StoreBusy, StoreUnwritable, wait=True)
            )
        except StoreUnwritable as error:
            log.warning("the recorded states are checked again by every run: %s", error)
        note = folder / VERIFIED
        before = _states(store)
        if _read(note) == before:
            return
        with reading():
            store.verify(full=True)
        # a file that is written again within the clock's resolution would keep its times
        newest = max(state["changed_ns"] for state in before.values()) / 1e9
        if before == _states(store) and time.time() - newest > SETTLED_SECONDS:
            try:
                write_durably(note, json.dumps(before, indent=1).encode())
            except OSError as error:
                log.warning("%s cannot be written, so the next run checks the states again: %s", note, error)


def _states(store: ActivationStore) -> dict[str, dict[str, int]]:
    files = [store.folder / shard.file for shard in store.manifest.shards]
    return {file.name: file_state(file) for file in (*files, store.folder / "manifest.json")}


def _read(note: Path) -> Any:
    """The note's content; None where there is none that can be read, and the store is then checked."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
