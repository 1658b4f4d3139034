"""One process at a time writes to a store's folder, or to a worker's folder in it."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path

from lrt.activations.errors import StoreBusy, StoreUnwritable
from lrt.storage.durable import one_writer

log = logging.getLogger(__name__)


def one_recorder(folder: Path, *, wait: bool) -> AbstractContextManager[None]:
    """Create the folder and hold it for this process.

    wait  Wait for a process that holds it, with a line in the log, instead of raising StoreBusy.

    Raises StoreUnwritable if the folder cannot be created or written.
    """

    def waiting(held: Path) -> None:
        log.warning("waiting for another process that is recording into %s", held)

    return one_writer(folder, "recording into", StoreBusy, StoreUnwritable, waiting if wait else None)
