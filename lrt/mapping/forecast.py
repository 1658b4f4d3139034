"""Coverage forecast: predict how well a map transfers a steering vector, before any steering.

A map can only be good along directions that vary in its corpus.

- `jackknife`: sampling error of `W v` over folds of documents. Rows of one document are correlated, so the
  textbook error from the residuals (`independent_error`) is too small.
- `agreement`: cosine of `W v` between maps fitted on different text. It shows errors outside the corpus,
  which the sampling error does not.
- `residual_on`: FVU on the contrastive prompts, which needs the target's states on them.

The first two do not need the target's native vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments, merge_all, unit_vector
from lrt.mapping.ridge import check_weight, ridge_directions, ridge_solve
from lrt.mapping.scores import cosine

# Variance along a vector, relative to the mean over directions, below which it is rounding error.
NO_VARIANCE = 1e-12
FIX_HINT = "Add text like its contrastive prompts to corpus.sources, or use more rows (corpus.tokens)"


@dataclass(frozen=True)
class Forecast:
    """Sampling error of the transferred vector `W v` of one source vector `v`.

    signal            `||W v||`, in units of the target's hidden states.
    standard_error    Root of the variance of `W v`, summed over dimensions, by the jackknife.
    signal_to_noise   Their ratio. Pure noise is about one standard error long, so the ratio does not fall
                      far below 1.
    """

    vector: str
    signal: float
    standard_error: float
    signal_to_noise: float
    folds: int
    rows: int

    def warning(self, threshold: float, fix_hint: str = FIX_HINT) -> str | None:
        """A warning where signal-to-noise is under `threshold`, else None; `fix_hint` says what to do."""
        if self.signal_to_noise >= threshold:
            return None
        return (
            f"the transferred vector {self.vector} is only {self.signal_to_noise:.1f} standard errors long, "
            f"and should be at least {threshold:g}: the corpus has too little text of its kind. "
            f"{fix_hint}"
        )


def residual_warning(vector: str, residual: float, threshold: float, fix_hint: str) -> str | None:
    """A warning where a map leaves too much of the variance among a vector's prompts unexplained, else None.

    residual   Share of that variance, of `residual_on`; a warning is given above `threshold`.
    fix_hint   What to do, for the warning.
    """
    if residual <= threshold:
        return None
    return (
        f"the map leaves {residual:.0%} of the variance among the contrastive prompts of {vector} "
        f"unexplained, and should leave at most {threshold:.0%}. {fix_hint}"
    )


@dataclass(frozen=True)
class Agreement:
    """Cosines of `W v` between maps fitted on different text: the mean and the least."""

    mean: float
    least: float
    least_pair: tuple[str, str]


def jackknife(
    folds: Sequence[Moments],
    vectors: Mapping[str, Tensor],  # each [d_source]
    weight: float,
    *,
    bias: bool = True,
    columns: slice | None = None,
) -> dict[str, Forecast]:
    """Standard error of `W v` for each vector, by a jackknife over folds of documents.

    folds    Moments of disjoint sets of whole documents, about ten of similar size. Unequal folds are
             weighted by rows.
    weight   Ridge weight of the map on all rows. A fit without a fold uses the same weight per row.
    columns  The target columns to use, such as one of several concatenated layers; None: all.

    The signal-to-noise ratio of a vector along which the rows do not vary is 0. The cost is one
    Cholesky factor for each fold.

    Raises InvalidValue for fewer than two folds, an empty fold, a vector that is zero or not finite, and rows
    that do not span their space at this weight; ValueError for other widths, a bad weight or no columns.

    Source: delete-m(j) jackknife, Busing, Meijer and van der Leeden (1999).
    """
    _check_folds(folds)
    check_weight(weight)
    d_source = folds[0].d_source
    of_layer = _checked_columns(columns, folds[0].d_target)
    for name, v in vectors.items():
        try:
            unit_vector(v, d_source)
        except InvalidValue as invalid:
            raise InvalidValue(f"vector {name}: {invalid}") from None
    if not vectors:
        return {}

    def seen(fold: Moments) -> Moments:
        part = fold.part(slice(None), of_layer)
        # Merging moments of zero mean keeps the mean at zero.
        return part if bias else part.about_origin()

    whole = seen(merge_all(folds))
    scatter = whole.scatter_xx
    stacked = torch.stack([v.to(scatter) for v in vectors.values()], 1)  # [d_source, k]

    transferred = whole.scatter_xy.T @ ridge_solve(whole, weight, stacked)  # [d_target, k]
    without_fold = []
    for fold in folds:
        rest = whole.without(seen(fold))
        same_per_row = weight * rest.count / whole.count
        without_fold.append(rest.scatter_xy.T @ ridge_solve(rest, same_per_row, stacked))
    error = _delete_group_error(transferred, torch.stack(without_fold), [fold.count for fold in folds])

    along = (stacked * (scatter @ stacked)).sum(0) / stacked.square().sum(0)
    varies = along > NO_VARIANCE * scatter.trace() / d_source
    signal = transferred.norm(dim=0)
    noise_free = torch.where(signal > 0, float("inf"), 0.0)
    ratio = torch.where(error > 0, signal / error, noise_free)
    ratio = torch.where(varies, ratio, 0.0)
    return {
        name: Forecast(
            vector=name,
            signal=float(signal[i]),
            standard_error=float(error[i]),
            signal_to_noise=float(ratio[i]),
            folds=len(folds),
            rows=whole.count,
        )
        for i, name in enumerate(vectors)
    }


def independent_error(
    rows: Moments,
    affine: AffineMap,
    weight: float,
    v: Tensor,  # [d_source]
) -> float:
    """Standard error of `W v` if rows were independent with one residual covariance, which those of one
    document are not: `sqrt(v'(S + weight I)^-1 S (S + weight I)^-1 v tr Sigma)`.

    rows    Those that the map was fitted on at this ridge weight; `S` is their source scatter, and `Sigma`
            the covariance of what the map leaves unexplained of them.
    """
    solved = ridge_solve(rows, weight, v.to(rows.mean_x)[:, None])[:, 0]
    residual = rows.fvu_of(affine) * rows.scatter_yy.trace()
    spread = solved @ rows.scatter_xx @ solved
    return float((spread.clamp(min=0) * residual / rows.count).sqrt())


def agreement(
    transferred: Mapping[str, Tensor] | Sequence[Tensor],  # each [d_target]
) -> Agreement:
    """Cosine between every two transferred vectors of one source vector, by maps fitted on different text.

    transferred  By maps of disjoint sets of documents, or of the parts of the corpus. A sequence is named by
                 number.

    The cosine with a map that sends the vector to zero is 0. Raises InvalidValue for fewer than two maps,
    ValueError for other widths.
    """
    named = (
        dict(transferred)
        if isinstance(transferred, Mapping)
        else {str(i): each for i, each in enumerate(transferred)}
    )
    if len(named) < 2:
        raise InvalidValue(
            f"agreement needs at least 2 maps of different text, got {len(named)}: fit one for each part of "
            "corpus.sources or for each of a few sets of documents"
        )
    for (first, one), (second, other) in pairwise(named.items()):
        if one.shape != other.shape or one.ndim != 1:
            raise ValueError(
                f"the vector transferred by map {first} is {list(one.shape)}, by map {second} "
                f"{list(other.shape)}; they must be [d_target] of one layer"
            )
    cosines = {(a, b): cosine(named[a], named[b]) for a, b in combinations(named, 2)}
    least_pair = min(cosines, key=cosines.__getitem__)
    return Agreement(sum(cosines.values()) / len(cosines), cosines[least_pair], least_pair)


def directions_of_halves(
    folds: Sequence[Moments],
    weight: float,
    v: Tensor,  # [k, d_source]
    *,
    bias: bool = True,
) -> list[Tensor]:  # two, each [k, d_target]
    """Transferred vectors by the ridge maps of every second fold of documents and of the others, each at its
    share by rows of the ridge weight of all: two maps of different text for `agreement`.

    Raises InvalidValue for fewer than two folds, an empty one, and rows that do not span their space at this
    weight.
    """
    _check_folds(folds)
    halves = [merge_all(folds[half::2]) for half in (0, 1)]
    total = sum(half.count for half in halves)
    return [ridge_directions(half, weight * half.count / total, v, bias=bias) for half in halves]


def residual_on(
    affine: AffineMap,
    source_states: Tensor,  # [n, d_source]
    target_states: Tensor,  # [n, d_target]
    *,
    centred: bool = False,
) -> float:
    """FVU of a map on the hidden states of contrastive prompts, both classes together.

    1.0 is the mean of these target states; a map fitted on other text can be worse.

    centred  Subtract the means of both sides first. A map can have a constant error on one kind of text and
             still get every difference right, and a vector is made of differences.

    Raises InvalidValue for states that are not finite and target states that do not vary, ValueError for
    other shapes.
    """
    _check_states(affine, source_states, target_states)
    y, mapped = target_states.double(), affine.to(torch.float64).points(source_states)
    total = (y - y.mean(0)).square().sum()
    if centred:
        y, mapped = y - y.mean(0), mapped - mapped.mean(0)
    if not total > 0:
        raise InvalidValue(f"the target states of {len(y)} prompts do not vary: give more prompts")
    return float((mapped - y).square().sum() / total)


def _checked_columns(columns: slice | None, d_target: int) -> slice:
    checked = slice(None) if columns is None else columns
    if not range(d_target)[checked]:
        raise ValueError(f"columns {columns} are none of the {d_target} target columns")
    return checked


def _check_folds(folds: Sequence[Moments]) -> None:
    if len(folds) < 2:
        raise InvalidValue(f"a jackknife needs at least 2 folds of documents, got {len(folds)}")
    for number, fold in enumerate(folds):
        if fold.count == 0:
            raise InvalidValue(
                f"fold {number} of {len(folds)} has no rows: use fewer folds (evaluation.folds)"
            )
        if (fold.d_source, fold.d_target) != (folds[0].d_source, folds[0].d_target):
            raise ValueError(
                f"fold {number} is {fold.d_source} -> {fold.d_target}, fold 0 "
                f"{folds[0].d_source} -> {folds[0].d_target}; they must be of the same pair of layers"
            )


def _check_states(affine: AffineMap, x: Tensor, y: Tensor) -> None:
    if x.shape != (len(y), affine.d_source) or y.shape != (len(x), affine.d_target) or len(x) == 0:
        raise ValueError(
            f"expected states of the same prompts, [n, {affine.d_source}] and [n, {affine.d_target}], "
            f"got {list(x.shape)} and {list(y.shape)}"
        )
    for side, states in (("source", x), ("target", y)):
        if not states.isfinite().all():
            raise InvalidValue(
                f"the {side} states of the prompts are not finite: load the model in a wider dtype "
                f"(pair.{side}.dtype)"
            )


def _delete_group_error(
    whole: Tensor,  # [d_target, k]
    without_fold: Tensor,  # [g, d_target, k]
    counts: Sequence[int],  # [g]
) -> Tensor:  # [k]
    """Root of the jackknife variance, summed over the target dimensions (Busing et al., 1999)."""
    inflation = (sum(counts) / torch.tensor(counts, dtype=whole.dtype, device=whole.device))[:, None, None]
    pseudo = inflation * whole - (inflation - 1) * without_fold
    estimate = len(counts) * whole - ((1 - 1 / inflation) * without_fold).sum(0)
    squares = (pseudo - estimate).square() / (inflation - 1)
    return squares.mean(0).sum(0).sqrt()
