"""Batches of a gradient fit straight from the models: every epoch runs both over the text again.

Rows come in the order of the text, whose documents were permuted when it was packed. A buffer on the training
device shuffles them: each batch is drawn at random from it, and later rows take the freed places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from functools import cached_property
from itertools import islice

import lightning
import torch

from lrt.activations.loaders import InOrder, Resumable
from lrt.activations.on_the_fly import OnTheFlyRows
from lrt.activations.windows import Batch
from lrt.corpora.splits import Split
from lrt.errors import InvalidValue
from lrt.models.hardware import CPU

HELD_BYTES = 2**31
"""Held-out rows of at most so many bytes are kept in memory from their first pass on."""


class PassStream:
    """Batches of one split from passes of both models, with the interface of `RowStream`.

    Args:
        batch_rows: rows in a batch; the last one of an epoch is smaller, and omitted where it is shuffled
            (unless it is the only one).
        window_rows: rows in the shuffle's buffer, which has at least a batch.
        seed: draws the order; None reads in the text's order, and keeps up to `HELD_BYTES` of rows.
        device: where batches, and the buffer, are.

    Raises StoreCorrupt where the split's rows were not counted: they are by the pass for its moments.
    """

    order = "pass 1"  # version of the order, see `stream.ORDER`

    def __init__(
        self,
        source: OnTheFlyRows,
        split: Split,
        *,
        batch_rows: int,
        window_rows: int,
        seed: int | None,
        device: torch.device = CPU,
    ) -> None:
        self.rows = source.counted(split)
        self.batch_rows = batch_rows
        self._source, self._split, self._seed, self._device = source, split, seed, device
        self._capacity = max(window_rows, batch_rows)
        self._held: list[Batch] | None = None

    def __len__(self) -> int:
        whole, rest = divmod(self.rows, self.batch_rows)
        return whole + (rest > 0 and (whole == 0 or self._seed is None))

    def batches(self, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1) -> Generator[Batch]:
        """The batches of an epoch from its `start`-th on. Those before it cost the same, but no step.

        Raises ValueError for more than one process.
        """
        if (rank, world) != (0, 1):
            raise ValueError(f"rows on the fly are for one process, not for {world}")
        if self._held is not None:
            yield from self._held[start:]
            return
        passed = (
            {name: values.to(self._device) for name, values in batch.items()}
            for batch in self._source.iterate(self._split, device=self._device)
        )
        if self._seed is not None:
            digest = hashlib.sha256(f"{self._seed}:{epoch}:pass".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            yield from islice(shuffled(passed, self.batch_rows, self._capacity, generator), start, len(self))
            return
        batches: list[Batch] | None = []
        size = 0
        for number, batch in enumerate(recut(passed, self.batch_rows)):
            size += sum(values.nbytes for values in batch.values())
            if batches is not None:
                batches.append(batch)
                batches = batches if size <= HELD_BYTES else None
            if number >= start:
                yield batch
        self._held = batches


class PassDataModule(lightning.LightningDataModule):
    """Rows on the fly as Lightning's Trainer reads them: train shuffled, validation and test in order.

    The models run in the Trainer's own thread, so nothing else runs them at the same time. A fit that is
    resumed within an epoch repeats the epoch's pass up to there, and ends with the same map.

    Args:
        rows: of one selection; every split was iterated before, so its rows are counted.
        batch_rows: rows in a batch.
        window_rows: rows in the shuffle's buffer, in float32 on the Trainer's device.
        seed: draws the order of the training rows.
    """

    def __init__(self, rows: OnTheFlyRows, *, batch_rows: int, window_rows: int, seed: int) -> None:
        super().__init__()
        self._rows, self._batch_rows, self._window_rows, self._seed = rows, batch_rows, window_rows, seed

    def train_dataloader(self) -> Resumable:
        """Shuffled, without an epoch's smaller last batch. Raises InvalidValue for several processes."""
        assert self.trainer is not None, "attached by the Trainer"
        if self.trainer.world_size > 1:
            raise InvalidValue(
                f"trainer.devices: {self.trainer.world_size} processes cannot share rows on the fly; set "
                "trainer.devices=1, or recording.states=native"
            )
        return Resumable(self._stream("train", self._seed, self.trainer.strategy.root_device), read=None)

    def val_dataloader(self) -> InOrder:
        return InOrder(self._validation, read=None)

    def test_dataloader(self) -> InOrder:
        return InOrder(self._stream("test", None), read=None)

    @cached_property
    def _validation(self) -> PassStream:
        return self._stream("validation", None)

    def _stream(self, split: Split, seed: int | None, device: torch.device = CPU) -> PassStream:
        return PassStream(
            self._rows,
            split,
            batch_rows=self._batch_rows,
            window_rows=self._window_rows,
            seed=seed,
            device=device,
        )


def recut(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    """The same rows in the same order, `rows` in a batch; the last one is smaller."""
    left: Batch | None = None
    for batch in batches:
        left = batch if left is None else {n: torch.cat([left[n], values]) for n, values in batch.items()}
        while _rows(left) >= rows:
            yield {name: values[:rows] for name, values in left.items()}
            left = {name: values[rows:] for name, values in left.items()}
    if left is not None and _rows(left):
        yield left


def shuffled(
    batches: Iterator[Batch], rows: int, capacity: int, generator: torch.Generator
) -> Iterator[Batch]:
    """The same rows, each once, `rows` in a batch, drawn at random from the last `capacity` that came.

    The buffer lies where the rows are; the draws are the same on every device. The last batch is smaller.
    """
    assert rows <= capacity, "a batch is drawn from the buffer"
    buffer: Batch = {}
    count = 0
    for batch in batches:
        if not buffer:
            buffer = {n: values.new_empty(capacity, *values.shape[1:]) for n, values in batch.items()}
        begin, came = 0, _rows(batch)
        while begin < came:
            stop = begin + min(capacity - count, came - begin)
            for name, values in batch.items():
                buffer[name][count : count + stop - begin] = values[begin:stop]
            count, begin = count + stop - begin, stop
            if count == capacity:
                yield _drawn(buffer, count, rows, generator)
                count -= rows
    while count:
        yield _drawn(buffer, count, min(rows, count), generator)
        count -= min(rows, count)


def _drawn(buffer: Batch, count: int, rows: int, generator: torch.Generator) -> Batch:
    """Rows drawn from the buffer's first `count`, whose places the rows at its end take."""
    chosen = torch.randperm(count, generator=generator)[:rows]
    left = torch.ones(rows, dtype=torch.bool)  # of the last `rows`
    left[chosen[chosen >= count - rows] - (count - rows)] = False
    moved, holes = left.nonzero().flatten() + (count - rows), chosen[chosen < count - rows]
    drawn = {}
    for name, values in buffer.items():
        drawn[name] = values[chosen.to(values.device)]
        values[holes.to(values.device)] = values[moved.to(values.device)]
    return drawn


def _rows(batch: Batch) -> int:
    return len(batch["document"])
