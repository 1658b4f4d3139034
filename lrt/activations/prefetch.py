"""Batches made ahead by a thread, in memory that a GPU can copy from beside its work."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

from lrt.activations.windows import Batch

AHEAD = 2  # batches: one that is being copied to the device, and one behind it


def prefetched(batches: Generator[Batch], *, ahead: int = AHEAD, pinned: bool = False) -> Generator[Batch]:
    """The same batches in the same order, made by one thread while the caller works on earlier ones.

    An exception of `batches` is raised where its batch would come. The thread ends with the iterator, and
    `batches` is closed.

    pinned  Put the batches into page-locked memory, from which a copy to a GPU need not be waited for.
    """

    def following() -> Batch | None:
        batch = next(batches, None)
        if batch is None or not pinned:
            return batch
        return {name: values.pin_memory() for name, values in batch.items()}

    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        waiting = deque(pool.submit(following) for _ in range(ahead))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(following))
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        batches.close()
