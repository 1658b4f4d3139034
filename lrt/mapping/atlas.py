"""A figure for every pair of a source and a target layer: the grid that layers are picked from.

`GridMoments` gathers what all pairs need in one pass: each layer's own scatter once and every cross
scatter, so that a grid costs far less than its pairs. `SharedRidge` decomposes a source layer once for
all target layers, and `atlas` gives, for each pair, the fit on test documents, similarity, rank, and the
error along each steering vector.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lrt.mapping.grid_moments import GridMoments
from lrt.mapping.layer_concat import LayerConcat, check_layers
from lrt.mapping.moments import Moments, unit_vector
from lrt.mapping.reduced_rank import reduced_rank_of
from lrt.mapping.ridge import SharedRidge
from lrt.mapping.scores import cosine

# Share of the full map's explained variance that the least rank must reach.
RANK_SHARE = 0.95


@dataclass(frozen=True)
class AtlasCell:
    """One pair of layers.

    `fvu` and `error_along` (one per steering vector) are of the ridge map on test rows, its `weight`
    chosen on validation rows; `cosine` is that of `W v` with the native vector. `cka` is linear CKA of
    the training rows. `rank` is the least rank whose reduced-rank map explains 95% of the variance that
    the whole map explains on test rows; 0 where that explains nothing. `fvu_of` is the FVU of the same map
    on other rows by name, as the single tokens without and with massive activations.
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
    progress: Callable[[int, int], None] | None = None,
) -> list[AtlasCell]:
    """A cell for every source layer with every target layer, in the order of the stacks.

    The moments are of stacked rows or of a grid of the same layers. `vectors` hold each steering
    vector at all layers of the source and its native counterpart at all of the target, stacked alike.
    `beside` are moments of further rows, by name, that every map is scored on. `progress` is called with
    the cells done and their number.

    Costs one eigendecomposition per source layer, one of the narrower width per cell for its rank, and
    products. Raises ValueError, before any of it, for moments or vectors of other widths, a vector that
    is zero or not finite at a layer, and moments without rows.
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
            fitted, chosen, scored = (_pair(m, source, target, s, t) for m in (train, validation, test))
            ridge = ridge or SharedRidge(fitted, chosen, bias=bias)
            fit = ridge.fit(fitted, chosen)
            along = {name: (own[s].to(fit.map.weight), native[t]) for name, (own, native) in units.items()}
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
                        name: _pair(moments, source, target, s, t).fvu_of(fit.map)
                        for name, moments in further.items()
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
    """Source layer for a vector: of those that steer the source itself, the least error along it.

    FVU alone favours early layers, which predict well and do not steer. Ties go to the earlier layer.
    Raises ValueError where the atlas has no such target layer or vector, or no layer that steers.
    """
    column = [cell for cell in cells if cell.target_layer == target]
    if not column:
        raise ValueError(f"target layer {target} is not in the atlas: add it to recording.target")
    if vector not in column[0].error_along:
        raise ValueError(f"the atlas has no vector {vector!r}; it has {sorted(column[0].error_along)}")
    steering = [cell for cell in column if cell.source_layer in steerable_source]
    if not steering:
        raise ValueError(
            f"no source layer of the atlas, {sorted(cell.source_layer for cell in column)}, steers the "
            f"source itself by {vector!r} (those that do: {sorted(steerable_source)}): add such blocks to "
            "recording.source"
        )
    return min(steering, key=lambda cell: (cell.error_along[vector], cell.source_layer)).source_layer


def _units(stacked: Tensor, stack: LayerConcat, name: str, side: str) -> dict[int, Tensor]:
    if stacked.shape != (stack.total,):
        raise ValueError(
            f"vector {name} needs {stack.total} numbers on the {side} side, got {list(stacked.shape)}"
        )
    units = {}
    for layer in stack.layers:
        try:
            units[layer] = unit_vector(stack.part(stacked, layer), stack.width)
        except ValueError as wrong:
            raise ValueError(f"vector {name} at {side} layer {layer}: {wrong}") from None
    return units


def _pair(
    moments: Moments | GridMoments, source: LayerConcat, target: LayerConcat, s: int, t: int
) -> Moments:
    if isinstance(moments, GridMoments):
        return moments.pair(s, t)
    return moments.part(source.columns(s), target.columns(t))


def _linear_cka(moments: Moments) -> float:
    """`||Sxy||^2 / (||Sxx|| ||Syy||)` in Frobenius norms (Kornblith et al., 2019), 0 for a constant side."""
    norms = moments.scatter_xx.norm() * moments.scatter_yy.norm()
    return float(moments.scatter_xy.square().sum() / norms) if norms > 0 else 0.0
