"""Layer atlas: the scores of a ridge map for every pair of a source and a target layer.

Layers are chosen from it. Each source layer is decomposed once for all target layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.grid_moments import GridMoments
from lrt.mapping.layer_concat import LayerConcat, check_layers
from lrt.mapping.moments import Moments, unit_vector
from lrt.mapping.reduced_rank import reduced_rank_of
from lrt.mapping.ridge import SharedRidge
from lrt.mapping.scores import cosine

# Share of the variance explained by the full map that a map of rank `AtlasCell.rank` explains.
RANK_SHARE = 0.95


@dataclass(frozen=True)
class AtlasCell:
    """Scores of one pair of layers, of its ridge map on test rows.

    fvu          Fraction of variance unexplained.
    weight       Ridge weight, chosen on validation rows.
    cka          Linear CKA of the training rows.
    rank         Least rank whose reduced-rank map explains 95% of what the full map explains; 0 where that
                 explains nothing.
    error_along  FVU along each native steering vector, by name.
    cosine       Cosine of `W v` with the native vector, by name.
    fvu_of       FVU of the same map on further rows, by name (single tokens, for instance).
    """

    source_layer: int
    target_layer: int
    fvu: float
    weight: float
    cka: float
    rank: int
    error_along: Mapping[str, float]
    cosine: Mapping[str, float]
    fvu_of: Mapping[str, float] = field(default_factory=dict)


def atlas(
    train: Moments | GridMoments,
    validation: Moments | GridMoments,
    test: Moments | GridMoments,
    source: LayerConcat,
    target: LayerConcat,
    vectors: Mapping[str, tuple[Tensor, Tensor]],  # name: source [S d_source], native target [T d_target]
    *,
    bias: bool = True,
    beside: Mapping[str, Moments | GridMoments] | None = None,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[AtlasCell]:
    """One cell for every pair of a source and a target layer, in the order of `source`, then `target`.

    train, validation, test  Moments of concatenated layers, or of a grid of the same layers.
    vectors   By name, a steering vector at all source layers and the native one at all target layers,
              concatenated like the rows.
    beside    Moments of further rows, by name, on which every map is scored.
    device    Where each pair is solved; by default where its moments are.
    progress  Called with the number of finished cells and their total.

    Costs one eigendecomposition per source layer, and per cell one of the narrower width for its rank.
    Raises, before any of it, InvalidValue for moments without rows and a vector that is zero or not finite
    at a layer, and ValueError for moments or vectors of other widths.
    """
    further = beside or {}
    for name, moments in (
        ("training", train),
        ("validation", validation),
        ("test", test),
        *further.items(),
    ):
        check_layers(moments, source, target, name)
    units = {
        name: (_units(pair[0], source, name, "source"), _units(pair[1], target, name, "target"))
        for name, pair in vectors.items()
    }
    cells: list[AtlasCell] = []
    for s in source.layers:
        ridge: SharedRidge | None = None
        for t in target.layers:
            fitted, chosen, scored, *others = (
                _pair(m, source, target, s, t, device) for m in (train, validation, test, *further.values())
            )
            ridge = ridge or SharedRidge(fitted, chosen, bias=bias)
            fit = ridge.fit(fitted, chosen)
            along = {
                name: (of_source[s].to(fit.map.weight), native[t])
                for name, (of_source, native) in units.items()
            }
            ranks = reduced_rank_of(ridge, fitted, fit.weight)
            cells.append(
                AtlasCell(
                    source_layer=s,
                    target_layer=t,
                    fvu=scored.fvu_of(fit.map),
                    weight=fit.weight,
                    cka=_linear_cka(fitted),
                    rank=ranks.rank_for(scored, RANK_SHARE) or 0,
                    error_along={
                        name: scored.error_along(fit.map, native) for name, (_, native) in along.items()
                    },
                    cosine={
                        name: cosine(fit.map.directions(v), native) for name, (v, native) in along.items()
                    },
                    fvu_of={
                        name: moments.fvu_of(fit.map) for name, moments in zip(further, others, strict=True)
                    },
                )
            )
            if progress is not None:
                progress(len(cells), len(source.layers) * len(target.layers))
    return cells


def choose_layers(
    cells: Iterable[AtlasCell],
    vector: str,
    steerable_source: Collection[int],
    target: int,
) -> int:
    """The source layer with the least error along a vector, among those that steer the source itself.

    FVU alone favours early layers, which predict well and do not steer. Ties go to the earlier layer. Raises
    InvalidValue where the atlas has no such target layer or no layer that steers, ValueError for a vector
    that it does not have.
    """
    column = [cell for cell in cells if cell.target_layer == target]
    if not column:
        raise InvalidValue(f"target layer {target} is not in the atlas: add it to recording.target")
    if vector not in column[0].error_along:
        raise ValueError(f"the atlas has no vector {vector!r}; it has {sorted(column[0].error_along)}")
    steering = [cell for cell in column if cell.source_layer in steerable_source]
    if not steering:
        raise InvalidValue(
            f"no source layer of the atlas ({sorted(cell.source_layer for cell in column)}) steers the "
            f"source by {vector!r}; layers that do are {sorted(steerable_source)}. Add one of them to "
            "recording.source"
        )
    return min(steering, key=lambda cell: (cell.error_along[vector], cell.source_layer)).source_layer


def _units(vector: Tensor, concat: LayerConcat, name: str, side: str) -> dict[int, Tensor]:
    if vector.shape != (concat.total,):
        raise ValueError(
            f"vector {name} must be [{concat.total}] on the {side} side, got {list(vector.shape)}"
        )
    units = {}
    for layer in concat.layers:
        try:
            units[layer] = unit_vector(concat.part(vector, layer), concat.width)
        except InvalidValue as error:
            raise InvalidValue(f"vector {name} at {side} layer {layer}: {error}") from None
    return units


def _pair(
    moments: Moments | GridMoments,
    source: LayerConcat,
    target: LayerConcat,
    s: int,
    t: int,
    device: torch.device | None,
) -> Moments:
    if isinstance(moments, GridMoments):
        pair = moments.pair(s, t)
    else:
        pair = moments.part(source.columns(s), target.columns(t))
    return pair if device is None else pair.to(device)


def _linear_cka(moments: Moments) -> float:
    """`||Sxy||^2 / (||Sxx|| ||Syy||)` in Frobenius norms (Kornblith et al., 2019), 0 for a constant side."""
    norms = moments.scatter_xx.norm() * moments.scatter_yy.norm()
    return float(moments.scatter_xy.square().sum() / norms) if norms > 0 else 0.0
