"""Reduced-rank regression with ridge: the best map of every rank from one decomposition.

The best map of rank r uses the r target directions along which the ridge map's *predictions* have most
variance (Izenman 1975, with the ridge as additional rows). Truncating the singular values of the ridge map
gives a worse map where source directions differ in variance: a large singular value along a direction that
hardly varies explains little.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments
from lrt.mapping.ridge import RELATIVE_WEIGHTS, SharedRidge, check_weight, not_spanning

# Eigenvalues of the source scatter below this share of the largest one are rounding error.
ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class ReducedRank:
    """The optimal map of every rank at one ridge weight, as products of two factors.

    `W_r = up[:, :r] @ down[:r]`. The columns of `up` are orthogonal, in falling order of what they explain of
    the training rows. So each rank adds one term to the map and to the explained variance. `weight` is added
    to the eigenvalues of the training scatter sum.
    """

    up: Tensor  # [d_target, max_rank], float64
    down: Tensor  # [max_rank, d_source], float64
    mean_x: Tensor  # [d_source], zero for a fit without bias
    mean_y: Tensor  # [d_target], zero for a fit without bias
    weight: float

    @property
    def max_rank(self) -> int:
        return len(self.down)

    def map(self, rank: int) -> AffineMap:
        """The map of this rank, float64 on the CPU. Raises InvalidValue for a rank outside 1..`max_rank`."""
        _check_rank(rank, len(self.mean_x), len(self.mean_y))
        weight = self.up[:, :rank] @ self.down[:rank]
        return AffineMap(weight, self.mean_y - weight @ self.mean_x).to("cpu")

    def fvu(self, moments: Moments) -> Tensor:  # [max_rank]
        """Fraction of variance unexplained on the rows of `moments`; entry `r - 1` is rank r.

        The columns of `up` are orthogonal, so the squared error is a running sum over ranks, and all ranks
        cost O(max_rank * d_source^2). Raises InvalidValue for target rows that do not vary, ValueError for
        moments of other widths.
        """
        _check_widths(moments, len(self.mean_x), len(self.mean_y))
        return _curve(self.up, self.down, _ScoredRows.of(moments, self.mean_x, self.mean_y))

    def rank_for(self, moments: Moments, share: float = 0.95) -> int | None:
        """The least rank that explains `share` of what the full rank explains on the rows of `moments`.

        None where the full rank does no better than the mean. Raises ValueError for a share outside (0, 1].
        """
        if not 0 < share <= 1:
            raise ValueError(f"the share of the explained variance must be in (0, 1], got {share}")
        explained = 1 - self.fvu(moments)
        if not explained[-1] > 0:
            return None
        return int((explained >= share * explained[-1]).nonzero()[0]) + 1


def reduced_rank_path(train: Moments, weight: float, *, bias: bool = True) -> ReducedRank:
    """The maps of every rank that minimise `sum ||W x + b - y||^2 + weight ||W||_F^2`.

    With `S` and `C` the centred scatters `xx` and `xy` and `W` the ridge map, `W_r = U U' W`, where `U` holds
    the leading r eigenvectors of `C'(S + weight I)^-1 C`. They are computed on the side of the smaller width,
    in the eigenbasis of `S`. The map of full rank is the ridge map.

    Raises InvalidValue for source rows that do not vary or do not span their space at this weight, ValueError
    for a weight that is negative or not finite.
    """
    check_weight(weight)
    fitted = train if bias else train.about_origin()
    return _every_rank(fitted, *_eigenbasis(fitted), weight)


def reduced_rank_of(ridge: SharedRidge, train: Moments, weight: float) -> ReducedRank:
    """`reduced_rank_path` of source rows that `ridge` has decomposed, at the cost of one decomposition of the
    smaller width.

    Raises ValueError for source rows other than the decomposed ones, and InvalidValue as `reduced_rank_path`.
    """
    return _every_rank(ridge.fitted(train), ridge.eigenvalues, ridge.vectors, weight)


def _every_rank(fitted: Moments, eigenvalues: Tensor, V: Tensor, weight: float) -> ReducedRank:
    ridged = eigenvalues + weight
    if ridged[0] <= ROUNDING * eigenvalues[-1]:
        raise InvalidValue(not_spanning(fitted, weight))
    P = V.T @ fitted.scatter_xy
    up, down = _factors(1 / ridged, P, _gram_of(P))
    return ReducedRank(up, down @ V.T, fitted.mean_x, fitted.mean_y, float(weight))


def reduced_rank_fit(train: Moments, validation: Moments, rank: int, *, bias: bool = True) -> ReducedRank:
    """`reduced_rank_path` at the ridge weight with the least validation FVU *at this rank*.

    The candidate weights are those of `ridge_path`. A low rank regularises too, so its best weight can differ
    from the full map's. After the eigendecomposition of the source scatter each of the 89 weights costs one
    eigendecomposition of the smaller width and five products.

    Raises InvalidValue for a rank outside 1..the smaller width and for rows that do not vary, ValueError for
    validation moments of other widths.
    """
    _check_rank(rank, train.d_source, train.d_target)
    _check_widths(validation, train.d_source, train.d_target)
    fitted = train if bias else train.about_origin()
    eigenvalues, V = _eigenbasis(fitted)
    P = V.T @ fitted.scatter_xy
    gram = _gram_of(P)
    scored = _ScoredRows.of(validation, fitted.mean_x, fitted.mean_y).rotated(V)
    path = (RELATIVE_WEIGHTS * float(eigenvalues.mean())).tolist()

    def fvu_at(weight: float) -> float:
        return float(_curve(*_factors(1 / (eigenvalues + weight), P, gram), scored)[rank - 1])

    weight = min(path, key=fvu_at)
    up, down = _factors(1 / (eigenvalues + weight), P, gram)
    return ReducedRank(up, down @ V.T, fitted.mean_x, fitted.mean_y, weight)


@dataclass(frozen=True, eq=False)
class _ScoredRows:
    """Scatter sums of rows about the means of a fit on other rows."""

    xx: Tensor  # [d_source, d_source]
    xy: Tensor  # [d_source, d_target]
    yy: Tensor  # [], trace
    total: Tensor  # [], trace about the rows' own mean: the denominator of the FVU

    @classmethod
    def of(cls, moments: Moments, mean_x: Tensor, mean_y: Tensor) -> _ScoredRows:
        off_x = moments.mean_x.to(mean_x) - mean_x
        off_y = moments.mean_y.to(mean_y) - mean_y
        n = moments.count
        total = moments.scatter_yy.trace().to(mean_y)
        if not total > 0:
            raise InvalidValue(
                "the target rows do not vary, so FVU is undefined: give the corpus more documents"
            )
        return cls(
            moments.scatter_xx.to(mean_x) + n * torch.outer(off_x, off_x),
            moments.scatter_xy.to(mean_x) + n * torch.outer(off_x, off_y),
            total + n * off_y.square().sum(),
            total,
        )

    def rotated(self, V: Tensor) -> _ScoredRows:
        """The same sums with source rows in the basis `V`."""
        return _ScoredRows(V.T @ self.xx @ V, V.T @ self.xy, self.yy, self.total)


def _curve(
    up: Tensor,  # [d_target, m], orthogonal columns
    down: Tensor,  # [m, d_source]
    scored: _ScoredRows,
) -> Tensor:  # [m]
    gained = 2 * ((down @ scored.xy) * up.T).sum(1)
    spent = up.square().sum(0) * ((down @ scored.xx) * down).sum(1)
    # Rounding can make a perfect map's FVU negative.
    return ((scored.yy + (spent - gained).cumsum(0)) / scored.total).clamp(min=0)


def _eigenbasis(fitted: Moments) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the source scatter, ascending and at least 0, and its eigenvectors."""
    eigenvalues, V = torch.linalg.eigh(fitted.scatter_xx)
    eigenvalues = eigenvalues.clamp(min=0)
    if not eigenvalues[-1] > 0:
        raise InvalidValue("the source rows do not vary: give the corpus more documents")
    return eigenvalues, V


def _gram_of(
    P: Tensor,  # [d_source, d_target]
) -> Tensor | None:
    """`P P'` where the source is the narrower side, else None."""
    return P @ P.T if P.shape[0] <= P.shape[1] else None


def _factors(
    inverse: Tensor,  # [d_source], 1 / (eigenvalues + weight)
    P: Tensor,  # [d_source, d_target]
    gram: Tensor | None,  # [d_source, d_source]
) -> tuple[Tensor, Tensor]:
    """`up` `[d_target, m]` and `down` `[m, d_source]` in the source's eigenbasis.

    With `K = diag(inverse)^1/2 P` the ridge map there is `K' diag(inverse)^1/2`, and the
    eigenvectors are the right singular vectors of `K`.
    """
    if gram is not None:
        root = inverse.sqrt()
        A = torch.linalg.eigh(root[:, None] * gram * root).eigenvectors.flip(1)
        B = root[:, None] * A
        return P.T @ B, B.T
    image = inverse[:, None] * P
    U = torch.linalg.eigh(P.T @ image).eigenvectors.flip(1)
    return U, (image @ U).T


def _check_rank(rank: int, d_source: int, d_target: int) -> None:
    most = min(d_source, d_target)
    if not 1 <= rank <= most:
        raise InvalidValue(f"map.rank must be 1 to {most} for widths {d_source} -> {d_target}, got {rank}")


def _check_widths(moments: Moments, d_source: int, d_target: int) -> None:
    if (moments.d_source, moments.d_target) != (d_source, d_target):
        raise ValueError(
            f"the fit is {d_source} -> {d_target}, the scored moments are "
            f"{moments.d_source} -> {moments.d_target}"
        )
