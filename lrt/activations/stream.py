"""Rows of a split as batches: shuffled with bounded memory, and in an order that (seed, epoch)
fixes.

The shards of a split are permuted, their chunks are, a few shards at a time, and are taken in windows; a
window's kept rows are permuted in RAM; batches are cut from the windows laid end to end. Batch `i` of epoch
`e` is therefore one fixed set of rows, whatever the number of workers or processes, and an epoch can be
entered at any batch by loading one window. Documents were permuted before they were recorded, so a few
shards are a fair sample, and a batch that needs few files costs no more where the store has many.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrt.activations.chunks import Chunks, Selection, TokenRows
from lrt.activations.manifest import SIDES
from lrt.activations.store import ActivationStore, ShardReader
from lrt.corpora.splits import Split

Batch = dict[str, Tensor]

LABELS = ("document", "group")

# whose chunks are permuted among each other
SHARDS_TOGETHER = 2
# changes with what batch `i` of epoch `e` holds: a checkpoint's place would mean other rows
ORDER = 2


@dataclass(frozen=True)
class _Order:
    """One epoch: its chunks in the order they are read, and where each window's rows begin."""

    chunks: list[npt.NDArray[np.int64]]  # by window: indices of chunks
    offsets: npt.NDArray[np.int64]  # [windows + 1], first kept row of each window


class RowStream:
    """Batches of one split as a selection sees it.

    A batch is `source` float32 [b, d_source], `target` float32 [b, d_target] (several layers side by
    side), `document` int64 [b] and `group` int64 [b] (index into the store's groups). Which rows a shuffled
    batch holds is drawn; in which order it holds them means nothing.

    Args:
        batch_rows: rows in a batch; the last one of an epoch is smaller.
        seed: draws the order; None reads in the store's own order.
        window_rows: rows that are shuffled among each other. Of tokens as they are stored RAM holds where
            they lie, and the system, told beforehand, their pages; of means and of states in a byte an entry
            it holds 2 + `workers` windows, and keeps their room from epoch to epoch.
        workers: threads that load windows ahead (or find where their rows lie, and have the system read
            them). Reading, filtering and permuting run outside the interpreter's lock, so threads serve as
            processes would, and share the memory.
        complete_only: leave out an epoch's smaller last batch (never the only one).
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
    ) -> None:
        self.chunks = chunks
        self.batch_rows = batch_rows
        self._store = store
        self._shards = store.shards(split)
        self._selection = selection
        # rows that are repeated make as many of fewer tokens
        self._repeats = any(rule.repeat > 1 for rule in selection.rules)
        self._chunks_per_window = max(1, window_rows // chunk_rows)
        self._largest_window = int(np.sort(chunks.kept)[-self._chunks_per_window :].sum())
        self._spare: list[Batch] = []  # room of windows that were given out
        # rows that are gathered from the files themselves: nothing is made of them first
        self._direct = selection.pool == 1 and store.plan.states == "native"
        self._readers: dict[int, ShardReader] = {}
        self._seed = seed
        self._workers = workers
        self._complete_only = complete_only
        self._columns = {side: selection.columns(store, side) for side in SIDES} | {
            name: [name] for name in LABELS
        }

    def __len__(self) -> int:
        """Batches in an epoch, over all processes."""
        whole, rest = divmod(self.chunks.rows, self.batch_rows)
        return whole + (rest > 0 and (whole == 0 or not self._complete_only))

    def batches(self, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Process `rank`'s batches of an epoch, from its `start`-th on.

        Process r of w takes batches r, r + w, ...; the w batches of one step are together the rows
        that a single process with w times the batch size would take.
        """
        order = self._order(epoch)
        numbers = range(rank + start * world, len(self), world)
        if not numbers:
            return
        first_row = numbers[0] * self.batch_rows
        first = int(np.searchsorted(order.offsets, first_row, side="right")) - 1
        windows = self._windows(order, epoch, first)
        begin = end = 0
        window: _Window | None = None
        try:
            for number in numbers:
                low = number * self.batch_rows
                high = min(low + self.batch_rows, self.chunks.rows)
                pieces: list[Batch] = []
                while low < high:
                    while low >= end:
                        self._take_back(window)
                        begin, window = next(windows)
                        end = begin + window.size
                    assert window is not None
                    until = min(high, end)
                    pieces.append(window.part(slice(low - begin, until - begin)))
                    low = until
                yield _joined(pieces)
        finally:
            windows.close()  # ends the threads of an epoch that is left early
            self._take_back(window)

    def _take_back(self, window: _Window | None) -> None:
        """Room of a window that was given out whole, for a later one."""
        if isinstance(window, _Copied):
            self._spare.append(window.room)

    def _order(self, epoch: int) -> _Order:
        count = len(self.chunks)
        if self._seed is None:
            permuted = np.arange(count)
        else:
            generator = self._generator(epoch, "chunks")
            shards = torch.randperm(len(self._shards), generator=generator).numpy()
            group = np.argsort(shards)[self.chunks.shard] // SHARDS_TOGETHER
            permuted = torch.randperm(count, generator=generator).numpy()
            permuted = permuted[np.argsort(group[permuted], kind="stable")]
        each = self._chunks_per_window
        windows = [permuted[i : i + each] for i in range(0, count, each)]
        sizes = [int(self.chunks.kept[window].sum()) for window in windows]
        return _Order(windows, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))

    def _generator(self, epoch: int, what: str) -> torch.Generator:
        # one stream of draws for each purpose: none depends on how many were made before
        digest = hashlib.sha256(f"{self._seed}:{epoch}:{what}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def _windows(self, order: _Order, epoch: int, first: int) -> Generator[tuple[int, _Window]]:
        """Windows with their first row, from the `first`-th on; windows without rows are
        skipped.
        """
        numbers = [n for n in range(first, len(order.chunks)) if order.offsets[n + 1] > order.offsets[n]]
        if self._workers == 0:
            for at, n in enumerate(numbers):
                # the system reads the next one while this one is used
                for soon in numbers[at + (at > 0) : at + 2]:
                    self._announce(order, soon)
                yield int(order.offsets[n]), self._load(order, epoch, n)
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="rows")
        try:
            ahead: deque[tuple[int, Future[_Window]]] = deque()
            for n in numbers:
                self._announce(order, n)
                ahead.append((n, pool.submit(self._load, order, epoch, n)))
                if len(ahead) > self._workers:
                    ready, future = ahead.popleft()
                    yield int(order.offsets[ready]), future.result()
            for ready, future in ahead:
                yield int(order.offsets[ready]), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, order: _Order, epoch: int, window: int) -> _Window:
        """A window's kept rows and their final order."""
        size = int(order.offsets[window + 1] - order.offsets[window])
        shuffled = None
        if self._seed is not None:
            generator = self._generator(epoch, f"window {window}")
            shuffled = torch.randperm(size, generator=generator)
        pieces = self._pieces(order.chunks[window])
        return self._mapped(pieces, size, shuffled) if self._direct else self._copied(pieces, size, shuffled)

    def _pieces(self, chosen: npt.NDArray[np.int64]) -> Iterator[_Piece]:
        """A window's chunks that give rows, in their order."""
        begin = 0
        for chunk in chosen:
            kept, shard = int(self.chunks.kept[chunk]), int(self.chunks.shard[chunk])
            if kept == 0:
                continue
            start, stop = int(self.chunks.start[chunk]), int(self.chunks.stop[chunk])
            made = None
            if self._repeats or kept < stop - start:  # or every token is a row, once
                made = self._selection.rows(self._store, self._reader(shard), start, stop)
            yield _Piece(shard, start, stop, slice(begin, begin + kept), made)
            begin += kept

    def _copied(self, pieces: Iterator[_Piece], size: int, shuffled: Tensor | None) -> _Copied:
        """What a window's rows are made of, read."""
        room = self._spare.pop() if self._spare else self._new_room()
        for piece in pieces:
            reader = self._reader(piece.shard)
            for name, columns in self._columns.items():
                begin = 0
                for column in columns:
                    values = reader.rows(column, piece.start, piece.stop)
                    if piece.made is not None:
                        values = piece.made.gathered(values)
                    if values.ndim == 1:
                        room[name][piece.place] = values
                        continue
                    room[name][piece.place, begin : begin + values.shape[1]] = values
                    begin += values.shape[1]
        return _Copied(size, room, shuffled)

    def _reader(self, shard: int) -> ShardReader:
        if shard not in self._readers:
            self._readers[shard] = self._store.reader(self._shards[shard])
        return self._readers[shard]

    def _announce(self, order: _Order, window: int) -> None:
        """Has the system read the pages of a window that is gathered from the files, in its own time."""
        if not self._direct:
            return
        columns = [column for side in SIDES for column in self._columns[side]]
        chosen = np.sort(order.chunks[window])
        for shard in np.unique(self.chunks.shard[chosen]).tolist():
            here = chosen[self.chunks.shard[chosen] == shard]
            starts, stops = self.chunks.start[here], self.chunks.stop[here]
            apart = starts[1:] != stops[:-1]  # chunks that follow each other are one run
            first, last = np.concatenate([[True], apart]), np.concatenate([apart, [True]])
            runs = zip(starts[first].tolist(), stops[last].tolist(), strict=True)
            self._reader(shard).announce(columns, runs)

    def _mapped(self, pieces: Iterator[_Piece], size: int, shuffled: Tensor | None) -> _Mapped:
        """Where a window's rows lie, and what is small of them."""
        places = {name: torch.empty(size, dtype=torch.int64) for name in ("shard", "row", *LABELS)}
        for piece in pieces:
            told = {name: self._reader(piece.shard).rows(name, piece.start, piece.stop) for name in LABELS}
            told["row"] = torch.arange(piece.start, piece.stop)
            for name, values in told.items():
                places[name][piece.place] = values if piece.made is None else piece.made.gathered(values)
            places["shard"][piece.place] = piece.shard
        if shuffled is not None:
            places = {name: values[shuffled] for name, values in places.items()}
        columns: dict[str, list[str]] = {side: self._columns[side] for side in SIDES}
        return _Mapped(places, columns, self._readers)

    def _new_room(self) -> Batch:
        """Where a window's rows go, in the store's dtypes, means in float32. It is used again for later
        windows: fresh memory costs more than what is copied into it."""
        room = {}
        for name, columns in self._columns.items():
            plan = [self._store.plan.columns[column] for column in columns]
            dtype = plan[0].dtype
            if dtype.is_floating_point and self._selection.pool > 1:
                dtype = torch.float32
            rows, *width = plan[0].shape(self._largest_window)
            beside = [sum(column.shape(1)[1] for column in plan)] if width else []
            room[name] = torch.empty([rows, *beside], dtype=dtype)
        return room


_BATCH_DTYPES = {"source": torch.float32, "target": torch.float32, "group": torch.int64}


@dataclass(frozen=True)
class _Piece:
    """A chunk's rows within a window.

    start, stop  Its tokens in the shard.
    place  Its rows in the window, before they are permuted.
    made   What the tokens become; None where every token is a row, once.
    """

    shard: int
    start: int
    stop: int
    place: slice
    made: TokenRows | None


@dataclass(frozen=True)
class _Mapped:
    """A window of rows that are gathered from the mapped files, batch by batch.

    places  int64 [size] each, in the order that batches are cut in: `shard` of each row, its number in it
            (`row`), and its labels.
    """

    places: Batch
    columns: dict[str, list[str]]
    readers: dict[int, ShardReader]

    @property
    def size(self) -> int:
        return len(self.places["row"])

    def part(self, here: slice) -> Batch:
        """Copies of some rows of the order, in the dtypes that a fit computes in."""
        # as they lie in the files: which rows a batch holds is drawn, their order in it means nothing
        shards, rows = self.places["shard"][here], self.places["row"][here]
        order = (shards * 2**40 + rows).argsort(stable=True)
        rows, counts = rows[order], shards.bincount()
        found = counts.nonzero().flatten().tolist()
        sizes = counts[found].tolist()
        pieces = torch.split(rows, sizes)
        part = {name: self.places[name][here][order] for name in LABELS}
        for side, columns in self.columns.items():
            gathered = []
            for column in columns:
                wholes = [self.readers[shard].whole(column) for shard in found]
                room = wholes[0].new_empty(len(rows), wholes[0].shape[1])
                for whole, piece, into in zip(wholes, pieces, torch.split(room, sizes), strict=True):
                    torch.index_select(whole, 0, piece, out=into)
                gathered.append(room.float())
            part[side] = gathered[0] if len(gathered) == 1 else torch.cat(gathered, dim=1)
        return part


@dataclass(frozen=True)
class _Copied:
    """A window of rows that were made of the store's, as means of tokens: as they were read, and the order
    that they are given in; None gives them as they are."""

    size: int
    room: Batch  # its first `size` rows
    order: Tensor | None

    def part(self, here: slice) -> Batch:
        """As `_Mapped.part`, in the order drawn."""
        part = {}
        for name, rows in self.room.items():
            dtype = _BATCH_DTYPES.get(name, rows.dtype)
            if self.order is None:
                part[name] = rows[here].to(dtype, copy=True)
            else:
                part[name] = rows.index_select(0, self.order[here]).to(dtype)
        return part


# rows that are shuffled among each other
_Window = _Mapped | _Copied


def _joined(pieces: list[Batch]) -> Batch:
    """One batch out of its pieces of windows."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


class InOrder:
    """A split's batches from first to last, each time it is iterated; keeps no place."""

    def __init__(self, stream: RowStream, rank: int = 0, world: int = 1) -> None:
        self._stream, self._rank, self._world = stream, rank, world

    def __len__(self) -> int:
        return len(range(self._rank, len(self._stream), self._world))

    def __iter__(self) -> Iterator[Batch]:
        return self._stream.batches(0, 0, self._rank, self._world)


class Resumable:
    """Shuffled epochs that remember their place: what the Trainer iterates over.

    Lightning saves `state_dict` in its checkpoints, hands it back on resume, and calls
    `sampler.set_epoch` before each epoch; the place is (epoch, batches given out), and a resumed
    epoch begins by loading the one window that holds its next batch.
    """

    def __init__(self, stream: RowStream, rank: int = 0, world: int = 1) -> None:
        if len(stream) < world:
            raise ValueError(
                f"the train split keeps {stream.chunks.rows} rows, {len(stream)} batches of "
                f"batches.rows={stream.batch_rows}, for {world} processes; lower batches.rows "
                "or raise corpus.tokens.train"
            )
        self._stream, self._rank, self._world = stream, rank, world
        self._epoch = 0
        self._given = 0

    def __len__(self) -> int:
        """Batches of a whole epoch for this process; the same for every process, or DDP would
        hang.
        """
        return len(self._stream) // self._world

    def __iter__(self) -> Iterator[Batch]:
        # a generator: nothing happens before the first batch is asked for, and Lightning makes
        # iterators that it never uses
        if self._given >= len(self):
            self._epoch, self._given = self._epoch + 1, 0
        batches = self._stream.batches(self._epoch, self._given, self._rank, self._world)
        # a low rank's share may hold one batch more than the others'
        for _, batch in zip(range(len(self) - self._given), batches, strict=False):
            # counted before it is given out: a checkpoint written while it is in use comes after it
            self._given += 1
            yield batch

    @property
    def sampler(self) -> Resumable:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of `epoch`, unless it is the one under way."""
        if epoch != self._epoch:
            self._epoch, self._given = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "given": self._given,
            "world": self._world,
            "batch_rows": self._stream.batch_rows,
            "order": ORDER,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the place that `state_dict` told.

        Raises ValueError where the batches are cut differently now: the place would mean other
        rows.
        """
        here = self.state_dict()
        if state.get("order") != ORDER:
            raise ValueError(
                "the checkpoint was written by a version that read the rows in another order; delete it and "
                "run the command again: the fit begins anew"
            )
        for name, setting in (("world", "trainer.devices"), ("batch_rows", "batches.rows")):
            if state[name] != here[name]:
                raise ValueError(
                    f"the checkpoint was written with {setting}={state[name]} and this run has "
                    f"{here[name]}; resume with {setting}={state[name]}"
                )
        self._epoch, self._given = int(state["epoch"]), int(state["given"])
