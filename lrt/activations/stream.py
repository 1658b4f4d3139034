"""Token or pooled rows of a split as batches: shuffled in bounded memory, reproducible by seed and epoch.

The shards of a split are permuted, then their chunks, a few shards at a time. Consecutive chunks form a
window, whose rows are permuted in memory. Batches are cut from the windows laid end to end. So batch `i` of
epoch `e` is one fixed set of rows, whatever the number of workers or processes, and an epoch can be entered
at any batch by loading one window. Documents were permuted before they were recorded, so a few shards are a
fair sample, and a batch needs few files however many the store has.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrt.activations.chunks import Chunks, Selection
from lrt.activations.store import ActivationStore
from lrt.activations.windows import Batch, Window, WindowLoader, in_float32
from lrt.corpora.splits import Split

# shards whose chunks are permuted among each other
SHARDS_TOGETHER = 2
# version of the order: if batch `i` of epoch `e` has other rows, a checkpoint's place is invalid
ORDER = 2


@dataclass(frozen=True)
class _Order:
    """One epoch: its chunks in the order in which they are read, and where each window's rows begin."""

    chunks: list[npt.NDArray[np.int64]]  # by window: indices of chunks
    offsets: npt.NDArray[np.int64]  # [windows + 1], first row of each window

    def size(self, window: int) -> int:
        return int(self.offsets[window + 1] - self.offsets[window])


class RowStream:
    """Batches of one split as a selection defines its rows.

    A batch is `source` float32 [b, d_source], `target` float32 [b, d_target] (several layers concatenated),
    `document` int64 [b] and `group` int64 [b] (index into the store's groups). Which rows a shuffled batch
    has is random; their order in it means nothing.

    Args:
        batch_rows: rows in a batch; the last one of an epoch is smaller.
        seed: draws the order; None reads in the store's own order.
        window_rows: rows that are permuted among each other. Of token rows in the models' dtype, memory has
            only their places in the files. Of pooled rows and quantised states it has 2 + `workers` windows,
            which are reused from epoch to epoch.
        workers: threads that load windows ahead. Reading, filtering and permuting release the interpreter's
            lock, so threads are as fast as processes and share memory.
        complete_only: omit an epoch's smaller last batch (never the only one).
        compact: leave states in the dtype they are stored in (but float64), for a device to convert: half
            the bytes to copy where the models ran in bfloat16. Means and quantised states are computed first.
    """

    def __init__(
        self,
        store: ActivationStore,
        split: Split,
        selection: Selection,
        chunks: Chunks,
        *,
        batch_rows: int,
        chunk_rows: int,
        window_rows: int,
        seed: int | None,
        workers: int = 0,
        complete_only: bool = False,
        compact: bool = False,
    ) -> None:
        self.chunks = chunks
        self.batch_rows = batch_rows
        self._shards = len(store.shards(split))
        self._chunks_per_window = max(1, window_rows // chunk_rows)
        largest = int(np.sort(chunks.counts)[-self._chunks_per_window :].sum())
        self._loader = WindowLoader(store, split, selection, chunks, largest)
        self._seed = seed
        self._workers = workers
        self._complete_only = complete_only
        self._compact = compact

    order = ORDER

    @property
    def rows(self) -> int:
        """Number of rows of the split."""
        return self.chunks.rows

    def __len__(self) -> int:
        """Batches in an epoch, over all processes."""
        whole, rest = divmod(self.rows, self.batch_rows)
        return whole + (rest > 0 and (whole == 0 or not self._complete_only))

    def batches(self, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1) -> Generator[Batch]:
        """Process `rank`'s batches of an epoch, from its `start`-th on.

        Process r of w takes batches r, r + w, ... The w batches of one step together are the rows of a single
        process with w times the batch size.
        """
        order = self._order(epoch)
        numbers = range(rank + start * world, len(self), world)
        if not numbers:
            return
        first_row = numbers[0] * self.batch_rows
        first = int(np.searchsorted(order.offsets, first_row, side="right")) - 1
        windows = self._windows(order, epoch, first)
        begin = end = 0
        window: Window | None = None
        try:
            for number in numbers:
                low = number * self.batch_rows
                high = min(low + self.batch_rows, self.chunks.rows)
                pieces: list[Batch] = []
                while low < high:
                    while low >= end:
                        self._loader.release(window)
                        begin, window = next(windows)
                        end = begin + window.size
                    assert window is not None
                    until = min(high, end)
                    pieces.append(window.part(slice(low - begin, until - begin)))
                    low = until
                batch = _joined(pieces)
                yield batch if self._compact else in_float32(batch)
        finally:
            windows.close()  # ends the threads of an epoch that is left early
            self._loader.release(window)

    def _order(self, epoch: int) -> _Order:
        count = len(self.chunks)
        if self._seed is None:
            permuted = np.arange(count)
        else:
            generator = self._generator(epoch, "chunks")
            shards = torch.randperm(self._shards, generator=generator).numpy()
            group = np.argsort(shards)[self.chunks.shard] // SHARDS_TOGETHER
            permuted = torch.randperm(count, generator=generator).numpy()
            permuted = permuted[np.argsort(group[permuted], kind="stable")]
        each = self._chunks_per_window
        windows = [permuted[i : i + each] for i in range(0, count, each)]
        sizes = [int(self.chunks.counts[window].sum()) for window in windows]
        return _Order(windows, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))

    def _generator(self, epoch: int, what: str) -> torch.Generator:
        # a generator for each purpose, so that no draw depends on how many were made before
        digest = hashlib.sha256(f"{self._seed}:{epoch}:{what}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def _windows(self, order: _Order, epoch: int, first: int) -> Generator[tuple[int, Window]]:
        """Windows from the `first`-th on, each after the number of its first row; empty ones are skipped."""
        numbers = [n for n in range(first, len(order.chunks)) if order.size(n)]
        if self._workers == 0:
            for at, n in enumerate(numbers):
                # the system reads the next one while this one is used
                for soon in numbers[at + (at > 0) : at + 2]:
                    self._loader.announce(order.chunks[soon])
                yield int(order.offsets[n]), self._load(order, epoch, n)
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="rows")
        try:
            ahead: deque[tuple[int, Future[Window]]] = deque()
            for n in numbers:
                self._loader.announce(order.chunks[n])
                ahead.append((n, pool.submit(self._load, order, epoch, n)))
                if len(ahead) > self._workers:
                    ready, future = ahead.popleft()
                    yield int(order.offsets[ready]), future.result()
            for ready, future in ahead:
                yield int(order.offsets[ready]), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, order: _Order, epoch: int, window: int) -> Window:
        shuffled: Tensor | None = None
        if self._seed is not None:
            generator = self._generator(epoch, f"window {window}")
            shuffled = torch.randperm(order.size(window), generator=generator)
        return self._loader.load(order.chunks[window], shuffled)


def _joined(pieces: list[Batch]) -> Batch:
    """One batch from its pieces of several windows."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
