"""Windows of a shuffled split: the rows of some chunks, read together and permuted among each other.

Token rows in the models' dtype are gathered from the mapped files batch by batch. Pooled rows and quantised
states have to be computed first, so a window of them is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrt.activations.chunks import Chunks, Selection, TokenRows
from lrt.activations.store import ActivationStore, ShardReader
from lrt.corpora.splits import Split
from lrt.models.sides import SIDES, Side

Batch = dict[str, Tensor]

LABELS = ("document", "group")


def in_float32(batch: Batch) -> Batch:
    """A batch whose states are converted to float32, in which moments and metrics are computed."""
    return {**batch, **{side: batch[side].float() for side in SIDES}}


def _of_batch(name: str, values: Tensor) -> Tensor:
    """A tensor as a batch has it: states as they are stored, but no wider than float32; labels as indices."""
    if name in LABELS:
        return values.long()
    return values.float() if values.dtype == torch.float64 else values


@dataclass(frozen=True)
class MappedWindow:
    """Rows that are gathered from the mapped files, batch by batch.

    places  int64 [size] each, in the order in which batches are cut: each row's `shard`, its token in it in
            each model (by side), and its labels.
    """

    places: Batch
    columns: dict[Side, list[str]]
    readers: dict[int, ShardReader]

    @property
    def size(self) -> int:
        return len(self.places["shard"])

    def part(self, here: slice) -> Batch:
        """Copies of some of the window's rows, in the dtypes of a batch.

        They are ordered as in the files: which rows a batch has is random, their order in it means nothing.
        """
        shards = self.places["shard"][here]
        order = (shards * 2**40 + self.places["source"][here]).argsort(stable=True)
        counts = shards.bincount()
        numbers = counts.nonzero().flatten().tolist()
        sizes = counts[numbers].tolist()
        part = {name: self.places[name][here][order] for name in LABELS}
        for side, columns in self.columns.items():
            gathered = []
            rows = self.places[side][here][order]
            pieces = torch.split(rows, sizes)
            for column in columns:
                wholes = [self.readers[number].whole(column) for number in numbers]
                room = wholes[0].new_empty(len(rows), wholes[0].shape[1])
                for whole, piece, into in zip(wholes, pieces, torch.split(room, sizes), strict=True):
                    torch.index_select(whole, 0, piece, out=into)
                gathered.append(_of_batch(side, room))
            part[side] = gathered[0] if len(gathered) == 1 else torch.cat(gathered, dim=1)
        return part


@dataclass(frozen=True)
class CopiedWindow:
    """Rows that were computed from the store's tokens and are held in memory.

    room   Its first `size` rows are the window's, in the order of its chunks.
    order  [size] in which batches are cut; None: as they are.
    """

    size: int
    room: Batch
    order: Tensor | None

    def part(self, here: slice) -> Batch:
        """Copies of some of the window's rows, in the dtypes of a batch."""
        part = {}
        for name, rows in self.room.items():
            taken = rows[here].clone() if self.order is None else rows.index_select(0, self.order[here])
            part[name] = _of_batch(name, taken)
        return part


Window = MappedWindow | CopiedWindow


@dataclass(frozen=True)
class _Piece:
    """One chunk's rows within a window.

    start, stop  Its tokens in the shard.
    place        Its rows in the window, before they are permuted.
    rows         How the tokens become rows; None: every token is one row.
    """

    shard: int
    start: int
    stop: int
    place: slice
    rows: TokenRows | None

    def gathered(self, values: Tensor, side: Side | None = None) -> Tensor:
        """Values per token of a model, or labels, as values per row."""
        return values if self.rows is None else self.rows.gathered(values, side)


class WindowLoader:
    """Loads windows of a split; any number of threads may load at the same time.

    largest  Most rows that a window can have.
    """

    def __init__(
        self, store: ActivationStore, split: Split, selection: Selection, chunks: Chunks, largest: int
    ) -> None:
        self._store = store
        self._shards = store.shards(split)
        self._selection = selection
        self._chunks = chunks
        self._largest = largest
        # a chunk whose rows are repeated can have as many rows as tokens without each token being a row
        self._repeats = any(rule.repeat > 1 for rule in selection.rules)
        # rows that are gathered from the files themselves
        self._direct = selection.pool == 1 and store.plan.states == "native"
        self._sides: dict[Side, list[str]] = {side: selection.columns(store, side) for side in SIDES}
        self._readers: dict[int, ShardReader] = {}
        self._spare: list[Batch] = []

    def load(self, chunks: npt.NDArray[np.int64], order: Tensor | None) -> Window:
        """The rows of some chunks, permuted by `order` [rows] if there is one."""
        size = int(self._chunks.counts[chunks].sum())
        pieces = self._pieces(chunks)
        return self._mapped(pieces, size, order) if self._direct else self._copied(pieces, size, order)

    def announce(self, chunks: npt.NDArray[np.int64]) -> None:
        """Let the operating system read the pages of a window that is gathered from the files."""
        if not self._direct:
            return
        columns = [column for side in SIDES for column in self._sides[side]]
        chunks = np.sort(chunks[self._chunks.counts[chunks] > 0])
        for shard in np.unique(self._chunks.shard[chunks]).tolist():
            here = chunks[self._chunks.shard[chunks] == shard]
            starts, stops = self._chunks.start[here], self._chunks.stop[here]
            apart = starts[1:] != stops[:-1]  # adjacent chunks are one run
            first, last = np.concatenate([[True], apart]), np.concatenate([apart, [True]])
            runs = zip(starts[first].tolist(), stops[last].tolist(), strict=True)
            self._reader(shard).announce(columns, runs)

    def release(self, window: Window | None) -> None:
        """Reuse a window's memory for later ones: fresh memory costs more than the copying into it."""
        if isinstance(window, CopiedWindow):
            self._spare.append(window.room)

    def _pieces(self, chunks: npt.NDArray[np.int64]) -> Iterator[_Piece]:
        """A window's chunks that have rows, in order."""
        begin = 0
        for chunk in chunks:
            count, shard = int(self._chunks.counts[chunk]), int(self._chunks.shard[chunk])
            if count == 0:
                continue
            start, stop = int(self._chunks.start[chunk]), int(self._chunks.stop[chunk])
            rows = None
            if self._repeats or count < stop - start:
                rows = self._selection.rows(self._store, self._reader(shard), start, stop)
            yield _Piece(shard, start, stop, slice(begin, begin + count), rows)
            begin += count

    def _mapped(self, pieces: Iterator[_Piece], size: int, order: Tensor | None) -> MappedWindow:
        places = {name: torch.empty(size, dtype=torch.int64) for name in ("shard", *SIDES, *LABELS)}
        for piece in pieces:
            reader, tokens = self._reader(piece.shard), torch.arange(piece.start, piece.stop)
            for name in LABELS:
                places[name][piece.place] = piece.gathered(reader.rows(name, piece.start, piece.stop))
            for side in SIDES:
                places[side][piece.place] = piece.gathered(tokens, side)
            places["shard"][piece.place] = piece.shard
        if order is not None:
            places = {name: values[order] for name, values in places.items()}
        return MappedWindow(places, self._sides, self._readers)

    def _copied(self, pieces: Iterator[_Piece], size: int, order: Tensor | None) -> CopiedWindow:
        try:
            room = self._spare.pop()
        except IndexError:  # no test beforehand: another thread may take the last one
            room = self._new_room()
        for piece in pieces:
            reader = self._reader(piece.shard)
            for label in LABELS:
                room[label][piece.place] = piece.gathered(reader.rows(label, piece.start, piece.stop))
            for side, columns in self._sides.items():
                begin = 0
                for column in columns:
                    values = piece.gathered(reader.rows(column, piece.start, piece.stop), side)
                    room[side][piece.place, begin : begin + values.shape[1]] = values
                    begin += values.shape[1]
        return CopiedWindow(size, room, order)

    def _new_room(self) -> Batch:
        """Memory for the largest window, in the store's dtypes; means in float32."""
        room = {}
        for name, columns in self._columns.items():
            plan = [self._store.plan.columns[column] for column in columns]
            dtype = plan[0].dtype
            if dtype.is_floating_point and self._selection.pool > 1:
                dtype = torch.float32
            rows, *width = plan[0].shape(self._largest)
            total = [sum(column.shape(1)[1] for column in plan)] if width else []
            room[name] = torch.empty([rows, *total], dtype=dtype)
        return room

    @property
    def _columns(self) -> dict[str, list[str]]:
        """The store's columns by name in a batch."""
        return {**dict(self._sides.items()), **{name: [name] for name in LABELS}}

    def _reader(self, shard: int) -> ShardReader:
        if shard not in self._readers:
            self._readers[shard] = self._store.reader(self._shards[shard])
        return self._readers[shard]
