"""Sums of every pair of some layers, from one pass of both models over packed texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lrt.activations import Selection, paired_rows
from lrt.corpora import SPLITS, PackedCorpus, Split
from lrt.errors import InvalidValue
from lrt.mapping import (
    GridMoments,
    GroupedMoments,
    LayerConcat,
    atlas_bytes,
    layer_concat_bytes,
    solving_bytes,
)
from lrt.mapping.grouped_moments import ROWS_A_GROUP
from lrt.mapping.moments import CHUNK_ROWS
from lrt.models.stacked import StateModel

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PassSums:
    """What a pass leaves.

    folds     Training rows by group of documents; groups without rows are omitted, unless all are.
    excluded  Training tokens that belong to no row, by reason.
    """

    folds: tuple[GridMoments, ...]
    validation: GridMoments
    test: GridMoments
    excluded: Mapping[str, int]

    @property
    def rows(self) -> dict[Split, int]:
        """Number of rows by split."""
        train = sum(fold.count for fold in self.folds)
        return {"train": train, "validation": self.validation.count, "test": self.test.count}


def needed_bytes(
    source: StateModel, target: StateModel, selection: Selection, folds: int, batch_tokens: int
) -> int:
    """Bytes that `summed` and a fit of its pairs need beside the models: sums, rows, and one pair's solve."""
    layers, widths = (selection.source_layers, selection.target_layers), (source.width, target.width)
    sums = atlas_bytes(layers[0], widths[0], layers[1], widths[1], folds + 2)
    one = LayerConcat(layers[0][:1], widths[0]), LayerConcat(layers[1][:1], widths[1])
    solving = layer_concat_bytes(*one, 2 * (folds + 4)) + solving_bytes(*one)
    # as they wait, sorted by group, and a chunk that is centred
    rows = 3 * max(CHUNK_ROWS, ROWS_A_GROUP * folds)
    states = sum(
        len(named) * lm.width * (batch_tokens * (lm.dtype.itemsize + 4) + rows * 4)
        for lm, named in zip((source, target), layers, strict=True)
    )
    return sums + solving + states


def check_memory(needed: int, selection: Selection, folds: int, memory_gb: float) -> None:
    """Raise InvalidValue where `needed` bytes are more than `memory_gb` allows."""
    if needed > memory_gb * 1e9:
        grid = f"{len(selection.source_layers)} x {len(selection.target_layers)}"
        raise InvalidValue(
            f"fitting {grid} layers with folds={folds} needs {needed / 1e9:.3g} GB of memory beside the "
            f"models, and memory_gb={memory_gb:g}. Name fewer `layers`, lower `folds` (at least 2) or "
            "`batch_tokens`, or raise `memory_gb` to what the machine has"
        )


def summed(
    source: StateModel,
    target: StateModel,
    selection: Selection,
    corpus: PackedCorpus,
    medians: Mapping[str, float],
    device: torch.device,
    folds: int,
    batch_tokens: int,
    progress: Progress | None,
) -> PassSums:
    """The sums of all splits, on a device.

    Raises NonFiniteActivations for states that are infinite or NaN.
    """
    total = sum(corpus.rows(split) for split in SPLITS)
    sums: dict[Split, list[GridMoments]] = {}
    excluded: Counter[str] = Counter()
    done = 0
    for split in SPLITS:
        count = folds if split == "train" else 1
        sums[split] = [
            GridMoments(
                selection.source_layers, source.width, selection.target_layers, target.width, device=device
            )
            for _ in range(count)
        ]
        grouped = GroupedMoments(sums[split])
        for rows in paired_rows(
            source,
            target,
            selection,
            corpus,
            split,
            medians=medians,
            batch_tokens=batch_tokens,
            device=device,
        ):
            grouped.add(rows.source, rows.target, rows.document % count)
            if split == "train":
                excluded.update(rows.excluded)
            if progress is not None:
                progress(done + rows.sequences * corpus.context, total)
        grouped.flush()
        done += corpus.rows(split)
    (validation,), (test,) = sums["validation"], sums["test"]
    by_fold = tuple(fold for fold in sums["train"] if fold.count)
    return PassSums(by_fold or tuple(sums["train"]), validation, test, dict(excluded))
