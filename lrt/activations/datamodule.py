"""Lightning data module of a store: train shuffled and resumable, validation and test in order."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch

from lrt.activations.chunks import Chunks, Selection, chunks_of
from lrt.activations.loaders import InOrder, Resumable
from lrt.activations.prefetch import prefetched
from lrt.activations.store import ActivationStore
from lrt.activations.stream import RowStream
from lrt.activations.windows import Batch
from lrt.corpora.splits import SPLITS, Split
from lrt.errors import InvalidValue
from lrt.models.hardware import CPU
from lrt.models.sides import SIDES


class NoRows(InvalidValue):
    """A selection excludes every training token; the message names the settings to loosen."""


class ActivationDataModule(lightning.LightningDataModule):
    """Streams token or pooled rows of some layers of a store; memory does not grow with their number.

    Batches are ready tensors (see `RowStream`). Under DDP each process reads its own. The same seed gives the
    same batches, whatever `workers` is. The Trainer's batches have their states in the stored dtype: a
    module converts them to float32 on its device.

    Args:
        store: folder of a complete store.
        selection: layers, excluded tokens, and what a row is; or a mapping of its fields.
        batch_rows: rows in a batch of one process.
        seed: draws the order of the training rows.
        workers: threads that load ahead.
        window_rows: rows permuted among each other in memory.
        chunk_rows: rows that are read, and moved in the shuffle, as one.

    Raises:
        InvalidValue: a size is out of range.
        StoreMissing, StoreCorrupt, StoreForeign: from `setup`, about the store and its layers.
        NoRows: from `setup`, if every training token is excluded, and the selection names no documents.
    """

    def __init__(
        self,
        store: str | Path,
        selection: Selection | Mapping[str, Any],
        batch_rows: int = 1024,
        seed: int = 0,
        workers: int = 0,
        window_rows: int = 65_536,
        chunk_rows: int = 256,
    ) -> None:
        super().__init__()
        sizes = {
            "batches.rows": batch_rows,
            "batches.window_rows": window_rows,
            "chunk_rows": chunk_rows,
        }
        for name, value in sizes.items():
            if value < 1:
                raise InvalidValue(f"{name}={value}; it must be at least 1")
        if workers < 0:
            raise InvalidValue(f"batches.workers={workers}; it must be 0 or a number of threads")
        if not isinstance(selection, Selection):
            selection = Selection.from_data(selection)
        self.save_hyperparameters(
            {
                "store": str(store),
                "selection": selection.to_data(),
                "batch_rows": batch_rows,
                "seed": seed,
                "workers": workers,
                "window_rows": window_rows,
                "chunk_rows": chunk_rows,
            },
            logger=False,  # the names may collide with the module's own
        )
        self._folder = Path(store)
        self._selection = selection
        self._batch_rows = batch_rows
        self._seed = seed
        self._workers = workers
        self._window_rows = window_rows
        self._chunk_rows = chunk_rows
        self._store: ActivationStore | None = None
        self._chunks: dict[Split, Chunks] = {}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 (Lightning's signature)
        """Open the store and count its rows; does nothing the second time."""
        if self._store is None:
            store = ActivationStore.open(self._folder)
            tokens = store.plan.whole_sequences(self._chunk_rows * self._selection.pool)
            self._chunk_rows = tokens // self._selection.pool
            self._chunks = {split: chunks_of(store, split, self._selection, tokens) for split in SPLITS}
            self._store = store
            if self._chunks["train"].rows == 0 and not self._selection.names_documents:
                raise NoRows(
                    f"the filter excludes each of the {store.rows('train')} training tokens in "
                    f"{self._folder}; loosen filter.max_norm_ratio or filter.token_ids"
                )

    @property
    def store(self) -> ActivationStore:
        """The opened store."""
        self.setup()
        assert self._store is not None
        return self._store

    @property
    def rows(self) -> dict[Split, int]:
        """Number of token or pooled rows, by split."""
        self.setup()
        return {split: chunks.rows for split, chunks in self._chunks.items()}

    @property
    def rows_excluded(self) -> dict[Split, dict[str, int]]:
        """Excluded tokens, by split and reason."""
        self.setup()
        return {split: dict(chunks.excluded) for split, chunks in self._chunks.items()}

    def train_dataloader(self) -> Resumable:
        """Shuffled, without an epoch's smaller last batch; resumes from checkpoints."""
        stream = self._stream("train", seed=self._seed, complete_only=True, compact=True)
        return Resumable(stream, *self._process(), read=self._read_ahead)

    def val_dataloader(self) -> InOrder:
        return self._in_order("validation")

    def test_dataloader(self) -> InOrder:
        return self._in_order("test")

    def _in_order(self, split: Split) -> InOrder:
        stream = self._stream(split, seed=None, compact=True)
        return InOrder(stream, *self._process(), read=self._read_ahead)

    def iterate(
        self, split: Split, batch_rows: int | None = None, device: torch.device = CPU
    ) -> Iterator[Batch]:
        """All rows of a split in the store's order, for moments and closed forms.

        Batches of `source` and `target`, float32 [b, d] on `device`; the rest is on the CPU.
        """
        if device.type == "cpu":
            return self._stream(split, seed=None, batch_rows=batch_rows).batches()
        # gathered by a thread, and copied in the dtype they are stored in
        stored = self._stream(split, seed=None, batch_rows=batch_rows, compact=True).batches()
        ahead = prefetched(stored, pinned=device.type == "cuda")
        return (
            {n: v.to(device, non_blocking=True).float() if n in SIDES else v for n, v in batch.items()}
            for batch in ahead
        )

    def iterate_shuffled_pairs(
        self, split: Split, seed: int, batch_rows: int | None = None
    ) -> Iterator[Batch]:
        """All rows of a split with the targets permuted: a null with the same marginal distributions.

        Two independent shuffles of the split are paired. `document` and `group` are the source row's.
        """
        # permuted within the batch too: both shuffles order a batch as in the store, which would pair
        # neighbours
        generator = torch.Generator().manual_seed(seed)
        sources, targets = (
            self._stream(split, seed=2 * seed + side, batch_rows=batch_rows) for side in (0, 1)
        )
        for source, target in zip(sources.batches(epoch=-1), targets.batches(epoch=-1), strict=True):
            order = torch.randperm(len(target["target"]), generator=generator)
            yield {**source, "target": target["target"][order]}

    def _stream(
        self,
        split: Split,
        *,
        seed: int | None,
        batch_rows: int | None = None,
        complete_only: bool = False,
        compact: bool = False,
    ) -> RowStream:
        return RowStream(
            self.store,
            split,
            self._selection,
            self._chunks[split],
            batch_rows=batch_rows or self._batch_rows,
            chunk_rows=self._chunk_rows,
            window_rows=self._window_rows,
            seed=seed,
            workers=self._workers,
            complete_only=complete_only,
            compact=compact,
        )

    def _process(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _read_ahead(self, batches: Generator[Batch]) -> Generator[Batch]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return prefetched(batches, pinned=on_gpu)
