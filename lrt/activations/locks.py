"""One process at a time writes to a store's folder, or to a worker's folder in it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from lrt.activations.errors import StoreBusy, StoreUnwritable
from lrt.storage.locks import one_writer


def one_recorder(folder: Path, *, wait: bool) -> AbstractContextManager[None]:
    """Create the folder and hold it for this process.

    wait  Wait for a process that holds it, with a line in the log, instead of raising StoreBusy.

    Raises StoreUnwritable if the folder cannot be created or written.
    """
    return one_writer(folder, "recording into", StoreBusy, StoreUnwritable, wait=wait)
