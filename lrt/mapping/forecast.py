"""Coverage forecast: how well a steering vector will cross a map, told before any steering.

A map is only as good as the text it saw along the direction that it carries. `jackknife` gives the
sampling error of `W v` over folds of documents; rows of one document are correlated, so the textbook
error from the residuals is too small and stands beside it only to show by how much. Sampling error
does not see a map that is wrong off its corpus; `agreement` of `W v` between maps that were fitted on
different text does. Neither needs the target's own vector. `residual_on` looks at the
contrastive prompts themselves and needs the target's states on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor

from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments, merge_all, unit_vector
from lrt.mapping.ridge import ridge_solve
from lrt.mapping.scores import cosine

# Of the mean variance over directions: less than this along a vector is rounding.
NO_VARIANCE = 1e-12


@dataclass(frozen=True)
class Forecast:
    """What the corpus says about the image `W v` of one source vector, before any steering.

    `signal` is `||W v||` and `standard_error` the root of its variance summed over dimensions, both
    in units of the target's hidden states. `optimistic_error` takes the rows as independent with one
    residual covariance; the jackknife does not. An image that is all noise is about one standard error
    long, so signal-to-noise does not fall far below 1.
    """

    vector: str
    signal: float
    standard_error: float
    signal_to_noise: float
    optimistic_error: float
    folds: int
    rows: int

    def warning(self, threshold: float) -> str | None:
        """A sentence for the user where signal-to-noise is under `threshold`, else None."""
        if self.signal_to_noise >= threshold:
            return None
        return (
            f"the image of {self.vector} stands only {self.signal_to_noise:.1f} standard errors off zero "
            f"(at least {threshold:g} is wanted): the corpus has too little text of its kind. Add a part "
            "like its contrastive texts to corpus.sources, or give more rows (corpus.tokens)"
        )


@dataclass(frozen=True)
class Agreement:
    """Cosines of `W v` between maps fitted on different text: their mean and the least pair."""

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
    """Delete-one-group jackknife over document folds of the ridge image `W v` of each vector.

    `folds` are the moments of disjoint sets of whole documents, about ten of about equal size; unequal
    ones are weighted by rows (the delete-m(j) jackknife of Busing, Meijer and van der Leeden, 1999).
    `weight` is the ridge weight of the map on all rows; a fit that leaves out a fold takes its share
    by rows. `columns` picks the columns of one target layer out of a stack. The optimistic error is
    `sqrt(v'(S + weight I)^-1 S (S + weight I)^-1 v tr Sigma)` with `S` the source scatter and `Sigma`
    the residual covariance. Where the rows do not vary along a vector its signal-to-noise is 0.

    The cost is about log2 k merges and one Cholesky factor for each of k folds; no map is formed.

    Raises ValueError for fewer than two folds, an empty fold, other widths, a bad weight, a vector
    that is not finite or zero, empty columns, and rows that do not span their space at weight zero.
    """
    _check_folds(folds)
    d_source, d_target = folds[0].d_source, folds[0].d_target
    if not 0 <= weight < float("inf"):
        raise ValueError(f"a ridge weight must be finite and at least 0, got {weight}")
    kept = slice(None) if columns is None else columns
    if not range(d_target)[kept]:
        raise ValueError(f"columns {columns} hold none of the {d_target} target columns")
    for name, v in vectors.items():
        try:
            unit_vector(v, d_source)
        except ValueError as wrong:
            raise ValueError(f"vector {name}: {wrong}") from None
    if not vectors:
        return {}

    parts = [fold.part(slice(None), kept) for fold in folds]
    # About the origin once is for good: merging moments of zero mean leaves their mean at zero.
    parts = parts if bias else [part.about_origin() for part in parts]
    whole = merge_all(parts)
    scatter = whole.scatter_xx
    stacked = torch.stack([v.to(scatter) for v in vectors.values()], 1)  # [d_source, k]

    solved = ridge_solve(whole, weight, torch.cat([stacked, whole.scatter_xy], 1))
    solved, map_of_rows = solved[:, : len(vectors)], solved[:, len(vectors) :]
    image = whole.scatter_xy.T @ solved  # [d_target, k]
    residual = (
        whole.scatter_yy.trace()
        - 2 * (map_of_rows * whole.scatter_xy).sum()
        + (map_of_rows * (scatter @ map_of_rows)).sum()
    )
    spread = (solved * (scatter @ solved)).sum(0)
    optimistic = (spread.clamp(min=0) * residual.clamp(min=0) / whole.count).sqrt()

    left_out = []
    for rest in leave_one_out(parts):
        share = weight * rest.count / whole.count
        left_out.append(rest.scatter_xy.T @ ridge_solve(rest, share, stacked))
    error = _delete_group_error(image, torch.stack(left_out), [part.count for part in parts])

    along = (stacked * (scatter @ stacked)).sum(0) / stacked.square().sum(0)
    visited = along > NO_VARIANCE * scatter.trace() / d_source
    signal = image.norm(dim=0)
    noise_free = torch.where(signal > 0, float("inf"), 0.0)
    ratio = torch.where(error > 0, signal / error, noise_free)
    ratio = torch.where(visited, ratio, 0.0)
    return {
        name: Forecast(
            vector=name,
            signal=float(signal[i]),
            standard_error=float(error[i]),
            signal_to_noise=float(ratio[i]),
            optimistic_error=float(optimistic[i]),
            folds=len(parts),
            rows=whole.count,
        )
        for i, name in enumerate(vectors)
    }


def leave_one_out(folds: Sequence[Moments]) -> Iterator[Moments]:
    """Moments of all folds but the first, all but the second, and so on.

    By halves: what lies outside a half is merged once for all of its folds. So k folds take about k log2 k
    merges, of which log2 k are held at a time, and no subtraction that could lose digits. Raises ValueError
    for fewer than two folds, an empty one or other widths.
    """
    _check_folds(folds)
    return _without_each(folds, ())


def _without_each(folds: Sequence[Moments], outside: tuple[Moments, ...]) -> Iterator[Moments]:
    if len(folds) == 1:
        yield outside[0]
        return
    middle = len(folds) // 2
    for half, other in ((folds[:middle], folds[middle:]), (folds[middle:], folds[:middle])):
        yield from _without_each(half, (merge_all((*outside, *other)),))


def agreement(
    maps: Mapping[str, AffineMap] | Sequence[AffineMap],
    v: Tensor,  # [d_source]
    columns: slice | None = None,
) -> Agreement:
    """Cosine of `W v` between every two maps that were fitted on different text.

    The text is disjoint sets of documents, or the parts of the mixture. A sequence is named by number.
    `columns` picks one target layer out of a stack. A map that sends `v` to zero agrees with none
    (cosine 0). Raises ValueError for fewer than two maps, other widths, a zero or non-finite vector,
    or empty columns.
    """
    named = dict(maps) if isinstance(maps, Mapping) else {str(i): each for i, each in enumerate(maps)}
    if len(named) < 2:
        raise ValueError(
            f"agreement is between maps of different text, at least 2, got {len(named)}: fit one for each "
            "part of corpus.sources or for each of a few sets of documents"
        )
    for (first, one), (second, other) in pairwise(named.items()):
        if one.weight.shape != other.weight.shape:
            raise ValueError(
                f"map {first} is {one.d_source} -> {one.d_target}, map {second} "
                f"{other.d_source} -> {other.d_target}: agreement needs one pair of layers"
            )
    d_target = next(iter(named.values())).d_target
    kept = slice(None) if columns is None else columns
    if not range(d_target)[kept]:
        raise ValueError(f"columns {columns} hold none of the {d_target} target columns")
    images = {}
    for name, each in named.items():
        unit = unit_vector(v, each.d_source).to(each.weight.device)
        images[name] = each.onto(kept).to(torch.float64).directions(unit)
    cosines = {(a, b): cosine(images[a], images[b]) for a, b in combinations(images, 2)}
    least_pair = min(cosines, key=cosines.__getitem__)
    return Agreement(sum(cosines.values()) / len(cosines), cosines[least_pair], least_pair)


def residual_on(
    affine: AffineMap,
    source_states: Tensor,  # [n, d_source]
    target_states: Tensor,  # [n, d_target]
    *,
    centred: bool = False,
) -> float:
    """FVU of a map on the contrastive prompts' own states, of both classes together.

    `centred` takes both sides' means out first: a map can be off by a constant on one kind of text
    and right about every difference, which is all that a vector is made of.

    Unlike the rest of the forecast this needs the target's states on the prompts. 1.0 is the mean of
    these target states; a map that was fitted on other text can do worse. Raises ValueError for other
    shapes, non-finite states, or target states that do not vary.
    """
    _check_states(affine, source_states, target_states)
    y, image = target_states.double(), affine.to(torch.float64).points(source_states)
    total = (y - y.mean(0)).square().sum()
    if centred:
        y, image = y - y.mean(0), image - image.mean(0)
    if not total > 0:
        raise ValueError(f"the target states of {len(y)} prompts do not vary: give more prompts")
    return float((image - y).square().sum() / total)


def _check_folds(folds: Sequence[Moments]) -> None:
    if len(folds) < 2:
        raise ValueError(f"a jackknife leaves out one fold at a time: give at least 2, got {len(folds)}")
    for number, fold in enumerate(folds):
        if fold.count == 0:
            raise ValueError(f"fold {number} of {len(folds)} has no rows: make fewer folds of the documents")
        if (fold.d_source, fold.d_target) != (folds[0].d_source, folds[0].d_target):
            raise ValueError(
                f"fold {number} is {fold.d_source} -> {fold.d_target}, fold 0 "
                f"{folds[0].d_source} -> {folds[0].d_target}: folds are of one pair of layers"
            )


def _check_states(affine: AffineMap, x: Tensor, y: Tensor) -> None:
    if x.shape != (len(y), affine.d_source) or y.shape != (len(x), affine.d_target) or len(x) == 0:
        raise ValueError(
            f"expected states of the same prompts, [n, {affine.d_source}] and [n, {affine.d_target}], "
            f"got {list(x.shape)} and {list(y.shape)}"
        )
    for side, states in (("source", x), ("target", y)):
        if not states.isfinite().all():
            raise ValueError(f"non-finite {side} states of the prompts: record them again in a wider dtype")


def _delete_group_error(
    whole: Tensor,  # [d_target, k]
    left_out: Tensor,  # [g, d_target, k]
    counts: Sequence[int],  # [g]
) -> Tensor:  # [k]
    """Root of the jackknife variance, summed over the target dimensions (Busing et al., 1999)."""
    inflation = (sum(counts) / torch.tensor(counts, dtype=whole.dtype, device=whole.device))[:, None, None]
    pseudo = inflation * whole - (inflation - 1) * left_out
    estimate = len(counts) * whole - ((1 - 1 / inflation) * left_out).sum(0)
    squares = (pseudo - estimate).square() / (inflation - 1)
    return squares.mean(0).sum(0).sqrt()
