"""A split's rows as chunks: short runs that are read together and shuffled as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lrt.activations.filter import RowFilter
from lrt.activations.store import ActivationStore, ShardReader, norm_columns
from lrt.corpora.splits import Split


@dataclass(frozen=True)
class LayerPair:
    """Rows of one layer pair as a filter leaves them."""

    source_layer: int
    target_layer: int
    filter: RowFilter

    def keep(self, store: ActivationStore, reader: ShardReader, start: int, stop: int) -> Tensor:
        """[stop - start] bool: which of these rows of a shard stay."""
        return self.filter.keep(*self._facts(store, reader, start, stop))

    def left_out(
        self, store: ActivationStore, reader: ShardReader, start: int, stop: int
    ) -> dict[str, Tensor]:
        """[stop - start] bool by reason: which of these rows leave."""
        return self.filter.left_out(*self._facts(store, reader, start, stop))

    def _facts(
        self, store: ActivationStore, reader: ShardReader, start: int, stop: int
    ) -> tuple[dict[str, Tensor], dict[str, float], Tensor, Tensor]:
        columns = norm_columns(store, self.source_layer, self.target_layer)
        norms = {column: reader.rows(column, start, stop) for column in columns}
        medians = {
            columns[0]: store.median_norm("source", self.source_layer),
            columns[1]: store.median_norm("target", self.target_layer),
        }
        return (
            norms,
            medians,
            reader.rows("position", start, stop),
            reader.rows("token", start, stop),
        )


@dataclass(frozen=True)
class Chunks:
    """The chunks of a split: where each lies and how many of its rows stay.

    Memory is four integers a chunk. Which rows stay is found again when a chunk is read.
    """

    shard: npt.NDArray[np.int64]  # [chunks], index into store.shards(split)
    start: npt.NDArray[np.int64]  # [chunks], first row within the shard
    stop: npt.NDArray[np.int64]  # [chunks]
    kept: npt.NDArray[np.int64]  # [chunks]
    left_out: dict[str, int] = field(default_factory=dict)  # rows by reason

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def rows(self) -> int:
        """Rows that stay."""
        return int(self.kept.sum())


def chunks_of(store: ActivationStore, split: Split, pair: LayerPair, chunk_rows: int) -> Chunks:
    """Cuts a split into chunks of at most `chunk_rows` rows and counts those that stay.

    Reads norms, positions and tokens once, a shard at a time, and no hidden state.
    """
    bounds: list[tuple[int, int, int, int]] = []
    left_out: Counter[str] = Counter()
    for number, shard in enumerate(store.shards(split)):
        reasons = pair.left_out(store, store.reader(shard), 0, shard.rows)
        gone = np.zeros(shard.rows, dtype=np.int64)
        for reason, mask in reasons.items():
            left_out[reason] += int(mask.sum())
            gone += mask.numpy()
        for start, stop in _runs(shard.rows, chunk_rows):
            bounds.append((number, start, stop, stop - start - int(gone[start:stop].sum())))
    table = np.array(bounds, dtype=np.int64).reshape(-1, 4)
    return Chunks(table[:, 0], table[:, 1], table[:, 2], table[:, 3], dict(left_out))


def _runs(rows: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, length):
        yield start, min(start + length, rows)
