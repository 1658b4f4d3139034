"""Maps from many source layers at once (paper appendix A, which proposes them and trains none).

- `many_to_one` measures, for every target layer, how much all source layers together explain over the best
  single one, and how much each adds to the others.
- `many_to_many` fits one map from all source layers to all target layers. At one ridge weight its rows are
  the many-to-one maps, since least squares treats every target dimension separately.

Both work on moments of concatenated layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.affine import AffineMap
from lrt.mapping.layer_concat import LayerConcat, check_layers, of_layers
from lrt.mapping.moments import Moments
from lrt.mapping.ridge import SharedRidge, ridge_path
from lrt.mapping.scores import PERFECT


@dataclass(frozen=True)
class ManyToOne:
    """How much the source layers explain of one target layer. All FVU are on test rows.

    fvu_single  FVU of each source layer's own map.
    best_layer  The source layer with the least FVU on *validation* rows, so that the choice does not favour
                it on the test rows.
    fvu_best    The test FVU of `best_layer`.
    fvu_all     FVU of the map of all source layers.
    gain        `1 - fvu_all / fvu_best`.
    rise        By how much FVU rises when a layer is removed and the rest fitted again: what this layer
                alone adds. Layers with the same information replace each other and have no rise.
    share       Variance that a layer's block of the full map predicts, over that of the whole prediction.
                Blocks of correlated layers can cancel, so shares need not sum to 1 and can exceed it.
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
    """The ridge map from all source layers to all target layers, with one weight for all.

    `fvu` is over all target columns of the test rows, so layers of large norm count most; `fvu_layer` is per
    target layer.
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
    """One result for every target layer, in their order.

    Fits all source layers, each alone, and all but each. Every fit chooses its own ridge weight on the
    validation rows. Each set of source layers is decomposed once for all target layers, so the cost is
    `2 S + 1` eigendecompositions for `S` layers, of size up to `S d_source`.

    Raises InvalidValue for a single source layer and for moments without rows, ValueError for moments of
    other widths.
    """
    if len(source.layers) < 2:
        raise InvalidValue(
            f"many to one needs at least two source layers, got {list(source.layers)}: record more layers "
            "(recording.source)"
        )
    for name, moments in (("training", train), ("validation", validation), ("test", test)):
        check_layers(moments, source, target, name)
    every, concats = source.layers, (source, target)
    without = {layer: tuple(other for other in every if other != layer) for layer in every}
    sets = {every, *without.values(), *((layer,) for layer in every)}
    fvu_validation: dict[tuple[tuple[int, ...], int], float] = {}
    fvu_test: dict[tuple[tuple[int, ...], int], float] = {}
    shares: dict[int, dict[int, float]] = {}
    for layers in sorted(sets):
        ridge: SharedRidge | None = None
        for t in target.layers:
            fitted, held_out = (of_layers(m, concats, layers, (t,)) for m in (train, validation))
            ridge = ridge or SharedRidge(fitted, held_out, bias=bias)
            fit = ridge.fit(fitted, held_out)
            del fitted, held_out
            scored = of_layers(test, concats, layers, (t,))
            fvu_validation[layers, t], fvu_test[layers, t] = fit.fvu_validation, scored.fvu_of(fit.map)
            if layers == every:
                shares[t] = _shares(fit.map, scored.scatter_xx, source)
    results = []
    for t in target.layers:
        best = min(every, key=lambda layer: (fvu_validation[(layer,), t], layer))
        fvu_best, fvu_all = fvu_test[(best,), t], fvu_test[every, t]
        results.append(
            ManyToOne(
                target_layer=t,
                fvu_single={layer: fvu_test[(layer,), t] for layer in every},
                best_layer=best,
                fvu_best=fvu_best,
                fvu_all=fvu_all,
                gain=1 - fvu_all / fvu_best if fvu_best > PERFECT else 0.0,
                rise={layer: fvu_test[without[layer], t] - fvu_all for layer in every},
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
    """The map of all source layers to all target layers, its ridge weight chosen on the validation rows.

    The weight is the best one over all target columns together. Raises InvalidValue for moments without
    rows, ValueError for moments of other widths.
    """
    for name, moments in (("training", train), ("validation", validation), ("test", test)):
        check_layers(moments, source, target, name)
    fit = ridge_path(train, validation, bias=bias)
    fvu_layer = {
        t: of_layers(test, (source, target), source.layers, (t,)).fvu_of(fit.map.onto(target.columns(t)))
        for t in target.layers
    }
    return ManyToMany(fit.map, fit.weight, test.fvu_of(fit.map), fvu_layer)


def solving_bytes(source: LayerConcat, target: LayerConcat) -> int:
    """Upper bound of the bytes that either fit needs on top of the sums.

    Measured by counting live tensors (copies of parts, eigenvectors, products) over shapes, with the
    eigensolver's workspace and a margin.
    """
    D, E = source.total, target.total
    return 8 * (12 * D**2 + 3 * D * E + 5 * E**2)


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
