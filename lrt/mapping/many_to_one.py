"""Maps from many source layers at once (paper appendix A, which proposes them and trains none).

`many_to_one` asks, for every target layer, what all source layers together explain over the best of
them, and what each adds that the others do not have. `many_to_many` is the one map between the two
stacks; at one ridge weight its rows are the many-to-one maps, since least squares treats every target
dimension alone. All of it comes from moments of stacked rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lrt.mapping.affine import AffineMap
from lrt.mapping.layer_concat import LayerConcat, check_stacked, of_layers
from lrt.mapping.moments import Moments
from lrt.mapping.ridge import SharedRidge, ridge_path

# A FVU below this is rounding, and leaves nothing to gain.
PERFECT = 1e-12


@dataclass(frozen=True)
class ManyToOne:
    """What the source layers explain of one target layer. FVU is on test rows.

    `fvu_single` is each source layer's own map; `best_layer` had the least FVU on *validation* rows, so
    that picking it costs nothing on the test rows, and `fvu_best` is its test FVU. `fvu_all` is the map
    of all, and `gain = 1 - fvu_all / fvu_best`.

    `rise` is how far FVU goes up when a layer is left out and the rest fitted again: what it alone
    adds. Layers that say the same stand in for each other, and each rises by nothing.
    `share` is the variance that a layer's block of the full map predicts, over that of the whole
    prediction. Blocks of correlated layers add to and cancel each other: shares do not sum to 1 and may
    exceed it.
    """

    target_layer: int
    fvu_single: Mapping[int, float]
    best_layer: int
    fvu_best: float
    fvu_all: float
    gain: float
    rise: Mapping[int, float]
    share: Mapping[int, float]


@dataclass(frozen=True, eq=False)
class ManyToMany:
    """The ridge map from one stack to another, at one weight for all target layers.

    `fvu` is over all target columns of the test rows, where layers of large norm count most;
    `fvu_layer` has each target layer's own.
    """

    map: AffineMap
    weight: float
    fvu: float
    fvu_layer: Mapping[int, float]


def many_to_one(
    train: Moments,
    validation: Moments,
    test: Moments,
    source: LayerConcat,
    target: LayerConcat,
    *,
    bias: bool = True,
) -> list[ManyToOne]:
    """One result for every target layer, in the order of the stack.

    Fits all source layers, each alone, and all but each; every fit chooses its own ridge weight on the
    validation rows. Each set of source layers is decomposed once for all target layers, so the cost is
    `2 S + 1` eigendecompositions for `S` layers, of up to `S d_source`.

    Raises ValueError for a stack of one source layer, moments of other widths or without rows.
    """
    if len(source.layers) < 2:
        raise ValueError(
            f"many to one is of at least two source layers, got {list(source.layers)}: record more "
            "blocks (recording.source)"
        )
    for name, moments in (("training", train), ("validation", validation), ("test", test)):
        check_stacked(moments, source, target, name)
    every, stacks = source.layers, (source, target)
    without = {layer: tuple(other for other in every if other != layer) for layer in every}
    sets = {every, *without.values(), *((layer,) for layer in every)}
    chosen: dict[tuple[tuple[int, ...], int], float] = {}
    scored: dict[tuple[tuple[int, ...], int], float] = {}
    shares: dict[int, dict[int, float]] = {}
    for layers in sorted(sets):
        ridge: SharedRidge | None = None
        for t in target.layers:
            fitted, held_out = (of_layers(m, stacks, layers, (t,)) for m in (train, validation))
            ridge = ridge or SharedRidge(fitted, held_out, bias=bias)
            fit = ridge.fit(fitted, held_out)
            del fitted, held_out
            on = of_layers(test, stacks, layers, (t,))
            chosen[layers, t], scored[layers, t] = fit.fvu_validation, on.fvu_of(fit.map)
            if layers == every:
                shares[t] = _shares(fit.map, on.scatter_xx, source)
    results = []
    for t in target.layers:
        best = min(every, key=lambda layer: (chosen[(layer,), t], layer))
        fvu_best, fvu_all = scored[(best,), t], scored[every, t]
        results.append(
            ManyToOne(
                target_layer=t,
                fvu_single={layer: scored[(layer,), t] for layer in every},
                best_layer=best,
                fvu_best=fvu_best,
                fvu_all=fvu_all,
                gain=1 - fvu_all / fvu_best if fvu_best > PERFECT else 0.0,
                rise={layer: scored[without[layer], t] - fvu_all for layer in every},
                share=shares[t],
            )
        )
    return results


def many_to_many(
    train: Moments,
    validation: Moments,
    test: Moments,
    source: LayerConcat,
    target: LayerConcat,
    *,
    bias: bool = True,
) -> ManyToMany:
    """The map of all source layers to all target layers, its ridge weight chosen on validation rows.

    The weight is the best one over all target columns together. Raises ValueError for moments of other
    widths or without rows.
    """
    for name, moments in (("training", train), ("validation", validation), ("test", test)):
        check_stacked(moments, source, target, name)
    fit = ridge_path(train, validation, bias=bias)
    fvu_layer = {
        t: of_layers(test, (source, target), source.layers, (t,)).fvu_of(fit.map.onto(target.columns(t)))
        for t in target.layers
    }
    return ManyToMany(fit.map, fit.weight, test.fvu_of(fit.map), fvu_layer)


def stack_bytes(source: LayerConcat, target: LayerConcat, copies: int) -> int:
    """Bytes of the sums of `copies` stacked `Moments` (training, validation, test): float64, exact."""
    D, E = source.total, target.total
    return copies * 8 * (D**2 + D * E + E**2 + 2 * (D + E))


def solving_bytes(source: LayerConcat, target: LayerConcat) -> int:
    """Upper bound of what either fit takes on top of the sums: copies of parts, eigenvectors, products.

    Found by counting live tensors over shapes, with the eigensolver's workspace and a margin.
    """
    D, E = source.total, target.total
    return 8 * (14 * D**2 + 2 * D * E + 8 * E**2)


def _shares(
    affine: AffineMap,
    scatter: Tensor,  # [S d_source, S d_source]
    source: LayerConcat,
) -> dict[int, float]:
    weight = affine.weight.to(scatter)

    def predicted(columns: slice) -> float:
        block = weight[:, columns]
        return float(((block @ scatter[columns, columns]) * block).sum())

    whole = predicted(slice(None))
    return {layer: predicted(source.columns(layer)) / whole if whole > 0 else 0.0 for layer in source.layers}
