"""Ridge regression in closed form from moments: the optimum that every other fit is compared with.

One eigendecomposition of the source scatter gives the maps of all ridge weights. The validation moments
choose the weight without refitting. Generalised cross-validation would choose too small a weight, because
neighbouring tokens are correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments

# Default candidates for the ridge weight, in units of the mean eigenvalue of the source scatter.
RELATIVE_WEIGHTS = torch.logspace(-8, 3, 89, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """The ridge map with the best weight on the validation rows, and the curve it was chosen from.

    `weight` is added to the eigenvalues of the training scatter *sum* (scikit-learn's `alpha`).
    `curve[i]` is the validation FVU at `weights[i]`. All tensors are on the CPU.
    """

    map: AffineMap
    weight: float
    fvu_validation: float
    weights: Tensor  # [k], ascending
    curve: Tensor  # [k]


def ridge_path(
    train: Moments,
    validation: Moments,
    weights: Sequence[float] | Tensor | None = None,
    *,
    bias: bool = True,
) -> RidgeFit:
    """The ridge map with the weight that has the least FVU on the validation rows.

    weights  Candidates; by default 89 from 1e-8 to 1e3 mean eigenvalues of the source scatter.
    bias     Whether the map has a bias; without, it is fitted through the origin.

    Raises InvalidValue for rows that do not vary, ValueError for other widths, no weights, or some that are
    negative or not finite.
    """
    if (train.d_source, train.d_target) != (validation.d_source, validation.d_target):
        raise ValueError(
            f"training moments are {train.d_source} -> {train.d_target}, validation moments "
            f"{validation.d_source} -> {validation.d_target}"
        )
    return SharedRidge(train, validation, weights, bias=bias).fit(train, validation)


class SharedRidge:
    """A decomposition of source rows that fits ridge maps to any number of targets of the same rows.

    With `S = V L V'` and `P = V' Sxy` of the training moments, the map at weight `t` is
    `V diag(1 / (L + t)) P`, and its squared error on the validation rows (centred by the training
    means) is `tr Syy - 2 d'c + d'M d` with `d = 1 / (L + t)`, `c` the row sums of `P * V' Sxy_val`
    and `M = (V' Sxx_val V) * (P P')`. After the decomposition a weight costs O(d_source^2).

    `train` and `validation` are the moments of the source layer with any one of the targets. Raises
    InvalidValue for source rows that do not vary, ValueError for other widths or bad weights.

    bias           Whether the maps have one.
    vectors        [d_source, d_source], eigenvectors of the training scatter `V`.
    eigenvalues    [d_source], its eigenvalues `L`, ascending.
    off_x          [d_source], mean of the validation rows minus that of the training rows.
    validation_xx  [d_source, d_source], `V' Sxx_val V` about the training rows' mean.
    """

    def __init__(
        self,
        train: Moments,
        validation: Moments,
        weights: Sequence[float] | Tensor | None = None,
        *,
        bias: bool = True,
    ) -> None:
        if train.d_source != validation.d_source:
            raise ValueError(
                f"training rows have {train.d_source} source dimensions, validation rows have "
                f"{validation.d_source}"
            )
        self.bias = bias
        fitted = train if bias else train.about_origin()
        scatter = fitted.scatter_xx
        mean_eigenvalue = float(scatter.trace()) / train.d_source
        if not mean_eigenvalue > 0:
            raise InvalidValue("the source rows do not vary: give the corpus more documents")
        self._count, self._mean_x = train.count, fitted.mean_x
        self._path = _checked_weights(weights, mean_eigenvalue).to(scatter)
        eigenvalues, self.vectors = torch.linalg.eigh(scatter)
        self.eigenvalues = eigenvalues.clamp(min=0)
        self._inverse = self._inverse_at(self._path)  # [k, d_source]
        self.off_x = validation.mean_x - self._mean_x
        self.validation_xx = (
            self.vectors.T
            @ about(validation.scatter_xx, validation.count, self.off_x, self.off_x)
            @ self.vectors
        )

    def _inverse_at(self, weights: Tensor) -> Tensor:  # [k] to [k, d_source]
        shrunk = self.eigenvalues + weights[:, None]
        # Directions without variance map to zero (0/0 at weight zero).
        return torch.where(shrunk > self.eigenvalues.max() * 1e-14, 1 / shrunk, 0.0)

    def fit(self, train: Moments, validation: Moments) -> RidgeFit:
        """The result of `ridge_path` for these moments, at the cost of products only.

        Raises InvalidValue for validation rows that do not vary, ValueError for source rows other than the
        decomposed ones and for other widths.
        """
        fitted = self.fitted(train)
        if (train.d_source, train.d_target) != (validation.d_source, validation.d_target):
            raise ValueError(
                f"training moments are {train.d_source} -> {train.d_target}, validation moments "
                f"{validation.d_source} -> {validation.d_target}"
            )
        total = validation.scatter_yy.trace()
        if not total > 0:
            raise InvalidValue("the validation rows do not vary: give the corpus more documents")
        off_y = validation.mean_y - fitted.mean_y
        P = self.vectors.T @ fitted.scatter_xy
        R = self.vectors.T @ about(validation.scatter_xy, validation.count, self.off_x, off_y)
        M = self.validation_xx * (P @ P.T)
        squared = (
            total
            + validation.count * off_y.square().sum()
            - 2 * self._inverse @ (R * P).sum(1)
            + ((self._inverse @ M) * self._inverse).sum(1)
        )
        curve = (squared / total).clamp(min=0)
        best = int(curve.argmin())
        weight = (self.vectors @ (self._inverse[best, :, None] * P)).T
        affine = _with_bias(weight, fitted)
        return RidgeFit(affine, float(self._path[best]), float(curve[best]), self._path.cpu(), curve.cpu())

    def map_at(self, train: Moments, weight: float) -> AffineMap:
        """The map of these moments at one ridge weight; directions without variance map to zero.

        Raises ValueError for a bad weight and for source rows other than the decomposed ones.
        """
        check_weight(weight)
        fitted = self.fitted(train)
        (inverse,) = self._inverse_at(torch.tensor([weight]).to(self.eigenvalues))
        return _with_bias(
            (self.vectors @ (inverse[:, None] * (self.vectors.T @ fitted.scatter_xy))).T, fitted
        )

    def fitted(self, train: Moments) -> Moments:
        """Training moments as the fit sees them, about the origin where it has no bias.

        Raises ValueError for source rows other than those that were decomposed.
        """
        fitted = train if self.bias else train.about_origin()
        if train.count != self._count or not torch.equal(fitted.mean_x, self._mean_x):
            raise ValueError("these source rows are not the decomposed ones: make another SharedRidge")
        return fitted


def ridge_at(train: Moments, weight: float, *, bias: bool = True) -> AffineMap:
    """The ridge map at one ridge weight, in float64 on the CPU.

    Raises ValueError for a weight that is negative or not finite, InvalidValue as `ridge_solve`.
    """
    check_weight(weight)
    fitted = train if bias else train.about_origin()
    return _with_bias(ridge_solve(fitted, weight, fitted.scatter_xy).T, fitted)


def ridge_directions(
    train: Moments,
    weight: float,
    v: Tensor,  # [k, d_source], any float dtype
    *,
    bias: bool = True,
) -> Tensor:  # [k, d_target], float64 on the CPU
    """Transferred vectors `W v` of the ridge map at one weight, without the map.

    `W v = Sxy' (S + weight I)^-1 v`: one Cholesky factor and a right-hand side a vector, where the map needs
    one for each target dimension. Raises as `ridge_at`.
    """
    check_weight(weight)
    fitted = train if bias else train.about_origin()
    return (fitted.scatter_xy.T @ ridge_solve(fitted, weight, v.to(fitted.mean_x).T)).T.cpu()


def ridge_solve(
    moments: Moments,
    weight: float,
    right: Tensor,  # [d_source, k]
) -> Tensor:  # [d_source, k]
    """`(S + weight I)^-1 right` with `S` the source scatter.

    Raises InvalidValue where the source rows do not span their space and the weight is too small.
    """
    scatter = moments.scatter_xx
    scatter.diagonal().add_(weight)
    # Equilibrated: otherwise outlier dimensions would decide what counts as singular.
    scale = scatter.diagonal().rsqrt()[:, None]
    factor, failed = torch.linalg.cholesky_ex(scatter.mul_(scale).mul_(scale.T))
    del scatter
    pivots = factor.diagonal()  # what is not finite in a row makes its pivot so
    if failed or not pivots.isfinite().all() or pivots.min() < 1e-7:
        raise InvalidValue(not_spanning(moments, weight))
    return scale * torch.cholesky_solve(scale * right, factor)


def check_weight(weight: float) -> None:
    """Raise ValueError for a ridge weight that is negative or not finite."""
    if not 0 <= weight < float("inf"):
        raise ValueError(f"a ridge weight must be finite and at least 0, got {weight}")


def not_spanning(moments: Moments, weight: float) -> str:
    """The message for source rows that do not determine a map at this ridge weight."""
    return (
        f"{moments.count} rows do not span {moments.d_source} source dimensions at ridge weight {weight:g}: "
        "give more rows (corpus.tokens) or a larger weight"
    )


def about(scatter: Tensor, count: int, off_left: Tensor, off_right: Tensor) -> Tensor:
    """A centred scatter about other means, `off_left` and `off_right` away from its own."""
    return scatter + count * torch.outer(off_left, off_right)


def _checked_weights(weights: Sequence[float] | Tensor | None, mean_eigenvalue: float) -> Tensor:
    path = RELATIVE_WEIGHTS * mean_eigenvalue if weights is None else torch.as_tensor(weights)
    if path.ndim != 1 or len(path) == 0 or not (path >= 0).all() or not path.isfinite().all():
        raise ValueError(f"ridge weights must be a list of finite numbers of at least 0, got {path.tolist()}")
    return path.double().sort().values


def _with_bias(weight: Tensor, fitted: Moments) -> AffineMap:
    weight = weight.contiguous()
    return AffineMap(weight, fitted.mean_y - weight @ fitted.mean_x).to("cpu")
