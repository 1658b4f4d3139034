"""Ridge maps of every pair of a grid of layers, each at the least rank that loses little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrt.mapping.factored import FactoredMap, factored_within
from lrt.mapping.grid_moments import GridMoments
from lrt.mapping.moments import Moments, merge_all
from lrt.mapping.null_fvu import shuffled_fvu
from lrt.mapping.reduced_rank import reduced_rank_of
from lrt.mapping.ridge import SharedRidge


@dataclass(frozen=True)
class PairFit:
    """Figures of the map of one pair of layers.

    fvu             Fraction of variance unexplained by the stored map, on test rows.
    fvu_full        The same of the full ridge map, before its rank was lowered.
    fvu_validation  Of the full map on the validation rows, which chose the ridge weight.
    fvu_shuffled    Null: expected FVU on test rows of a full map of shuffled pairs, at the same ridge weight;
                    None where the training rows do not span the source.
    ridge_weight    Of the full map, added to the eigenvalues of the training scatter sum.
    rank            Of the stored map.
    change          Frobenius norm of the stored weight minus the full one, relative to the full one's. It
                    counts every direction alike, and FVU only those that vary.
    bytes           Of the stored map.
    """

    source: int
    target: int
    fvu: float
    fvu_full: float
    fvu_validation: float
    fvu_shuffled: float | None
    ridge_weight: float
    rank: int
    change: float
    bytes: int


def pair_of(folds: Sequence[GridMoments], source: int, target: int) -> tuple[Moments, ...]:
    """Moments of one pair of layers by fold."""
    return tuple(fold.pair(source, target) for fold in folds)


def fit_grid(
    folds: Sequence[GridMoments],
    validation: GridMoments,
    test: GridMoments,
    loss: float,
) -> dict[tuple[int, int], tuple[FactoredMap, PairFit]]:
    """The stored map and its figures by source and target layer; solved where the sums lie.

    folds       Training rows, whose sums are merged pair by pair.
    validation  Choose the ridge weight, and with `test` the rank.
    loss        Most FVU that a low rank may add, on the validation rows and on the test rows.

    Costs one eigendecomposition for each source layer, and for each pair one of the narrower width. Raises
    InvalidValue for sums without rows and rows that do not vary.
    """
    fitted: dict[tuple[int, int], tuple[FactoredMap, PairFit]] = {}
    for source in validation.source_layers:
        ridge: SharedRidge | None = None
        for target in validation.target_layers:
            train = merge_all(pair_of(folds, source, target))
            chosen, scored = validation.pair(source, target), test.pair(source, target)
            ridge = ridge or SharedRidge(train, chosen)
            full = ridge.fit(train, chosen)
            ranks = reduced_rank_of(ridge, train, full.weight)
            stored = factored_within(loss, full.map, ranks, (chosen, scored))
            affine = stored.affine()
            length = float(torch.linalg.matrix_norm(full.map.weight))
            difference = float(torch.linalg.matrix_norm(affine.weight - full.map.weight))
            figures = PairFit(
                source,
                target,
                fvu=scored.fvu_of(affine),
                fvu_full=scored.fvu_of(full.map),
                fvu_validation=full.fvu_validation,
                fvu_shuffled=shuffled_fvu(ridge, train, full.weight, scored),
                ridge_weight=full.weight,
                rank=stored.rank,
                change=difference / length if length else 0.0,
                bytes=stored.nbytes,
            )
            fitted[source, target] = stored, figures
    return fitted
