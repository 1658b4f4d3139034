"""Ridge regression in closed form from moments: the optimum that every fit is held against.

One eigendecomposition of the source scatter gives the whole path of ridge weights, and the
validation moments choose among them without refitting. Chosen by held-out documents and not by
generalised cross-validation, which under-regularises because neighbouring tokens are correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments

# Ridge weights tried by default, in units of the mean eigenvalue of the source scatter.
RELATIVE_WEIGHTS = torch.logspace(-8, 3, 89, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """The ridge map that validation chose, and the path it was chosen from.

    `weight` is added to the eigenvalues of the training scatter *sum* (scikit-learn's `alpha`).
    `curve[i]` is the validation FVU at `weights[i]`.
    """

    map: AffineMap
    weight: float
    fvu_validation: float
    weights: Tensor  # [k], rising
    curve: Tensor  # [k]


def ridge_path(
    train: Moments,
    validation: Moments,
    weights: Sequence[float] | Tensor | None = None,
    *,
    bias: bool = True,
) -> RidgeFit:
    """The ridge map with the weight that has the least FVU on the validation rows.

    With `S = V L V'` and `P = V' Sxy` of the training moments, the map at weight `t` is
    `V diag(1 / (L + t)) P`, and its squared error on the validation rows (centred by the training
    means) is `tr Syy - 2 d'c + d'M d` with `d = 1 / (L + t)`, `c` the row sums of `P * V' Sxy_val`
    and `M = (V' Sxx_val V) * (P P')`: O(d_source^2) per weight after one decomposition.
    `weights` default to 89 from 1e-8 to 1e3 mean eigenvalues. Raises ValueError for a negative
    weight, an empty path, other widths, or rows that do not vary.
    """
    if (train.d_source, train.d_target) != (validation.d_source, validation.d_target):
        raise ValueError(
            f"training moments are {train.d_source} -> {train.d_target}, validation moments "
            f"{validation.d_source} -> {validation.d_target}"
        )
    fitted = train if bias else train.about_origin()
    scatter_xx = fitted.scatter_xx
    mean_eigenvalue = float(scatter_xx.trace()) / train.d_source
    if not mean_eigenvalue > 0:
        raise ValueError("the source rows do not vary, so no map can be fitted to them")
    path = RELATIVE_WEIGHTS * mean_eigenvalue if weights is None else torch.as_tensor(weights)
    path = path.to(scatter_xx)
    if path.ndim != 1 or len(path) == 0 or not (path >= 0).all() or not path.isfinite().all():
        raise ValueError(f"ridge weights must be a list of finite numbers of at least 0, got {path.tolist()}")
    path = path.sort().values

    eigenvalues, V = torch.linalg.eigh(scatter_xx)
    eigenvalues = eigenvalues.clamp(min=0)
    P = V.T @ fitted.scatter_xy
    inverse = 1 / (eigenvalues + path[:, None])  # [k, d_source]
    # Directions that the rows never visit have no image (0/0 at weight zero).
    inverse = torch.where(eigenvalues + path[:, None] > eigenvalues.max() * 1e-14, inverse, 0.0)

    off_x = validation.mean_x - fitted.mean_x
    off_y = validation.mean_y - fitted.mean_y
    n = validation.count
    Q = V.T @ (validation.scatter_xx + n * torch.outer(off_x, off_x)) @ V
    R = V.T @ (validation.scatter_xy + n * torch.outer(off_x, off_y))
    total = validation.scatter_yy.trace()
    if not total > 0:
        raise ValueError("the validation rows do not vary: give the corpus more documents")
    c = (R * P).sum(1)
    M = Q * (P @ P.T)
    squared = total + n * off_y.square().sum() - 2 * inverse @ c + ((inverse @ M) * inverse).sum(1)
    curve = (squared / total).clamp(min=0)

    best = int(curve.argmin())
    weight = (V @ (inverse[best, :, None] * P)).T
    return RidgeFit(
        map=_with_bias(weight, fitted),
        weight=float(path[best]),
        fvu_validation=float(curve[best]),
        weights=path,
        curve=curve,
    )


def ridge_at(train: Moments, weight: float, *, bias: bool = True) -> AffineMap:
    """The ridge map at one given weight, in float64.

    Raises ValueError for a negative weight, and where the source rows do not span their space
    while the weight is zero.
    """
    if not 0 <= weight < float("inf"):
        raise ValueError(f"a ridge weight must be finite and at least 0, got {weight}")
    fitted = train if bias else train.about_origin()
    scatter_xx = fitted.scatter_xx
    scatter_xx.diagonal().add_(weight)
    # Equilibrated: outlier dimensions would else decide what counts as singular.
    scale = scatter_xx.diagonal().rsqrt()
    factor, failed = torch.linalg.cholesky_ex(scale[:, None] * scatter_xx * scale)
    if failed or not factor.isfinite().all() or factor.diagonal().min() < 1e-7:
        raise ValueError(
            f"{train.count} rows do not span {train.d_source} source dimensions at ridge weight "
            f"{weight}: give more rows (corpus.tokens) or a larger weight"
        )
    solved = torch.cholesky_solve(scale[:, None] * fitted.scatter_xy, factor)
    return _with_bias((scale[:, None] * solved).T, fitted)


def _with_bias(weight: Tensor, fitted: Moments) -> AffineMap:
    weight = weight.contiguous()
    return AffineMap(weight, fitted.mean_y - weight @ fitted.mean_x)
