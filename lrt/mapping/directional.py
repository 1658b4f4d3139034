"""Ridge regression with a weight of its own for each direction of the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments
from lrt.mapping.ridge import SharedRidge, about

# Weights tried, in units of the one weight that is best for all directions together.
RELATIVE_WEIGHTS = torch.logspace(-3, 4, 29, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class DirectionalRidge:
    """The map, and the weight that each direction was given.

    basis    [d_target, d_target], orthonormal columns: principal directions of the training targets.
    weights  [d_target], added to the eigenvalues of the training scatter sum, a column of `basis` each.
    """

    map: AffineMap
    basis: Tensor
    weights: Tensor
    fvu_validation: float


def ridge_per_direction(
    train: Moments, validation: Moments, weight: float, *, bias: bool = True
) -> DirectionalRidge:
    """Ridge regression in which every principal direction of the target has the weight that predicts the
    validation rows best along it (adaptive multivariate ridge regression: Brown and Zidek, 1980).

    One weight for all is a compromise that the directions of most variance decide; what a behaviour is told
    by is often a small part of it. Columns of a ridge map do not depend on one another, so with the source
    decomposed once a weight costs one product of `[d_source, d_source] x [d_source, d_target]`.

    weight  The best one for all, by which those that are tried are scaled; see `ridge_path`.

    Raises ValueError as `ridge_path` does, and for a weight that is not above 0.
    """
    if not weight > 0:
        raise ValueError(f"the weight that others are scaled by must be above 0, got {weight}")
    path = (RELATIVE_WEIGHTS * weight).to(train.scatter_xx)
    shared = SharedRidge(train, validation, path, bias=bias)
    fitted = train if bias else train.about_origin()
    basis = torch.linalg.eigh(fitted.scatter_yy)[1]
    off_y = validation.mean_y - fitted.mean_y
    P = shared.vectors.T @ fitted.scatter_xy @ basis
    R = shared.vectors.T @ about(validation.scatter_xy, validation.count, shared.off_x, off_y) @ basis
    squared = []
    for weight_at in path:
        B = P / (shared.eigenvalues + weight_at)[:, None]
        squared.append((B * (shared.validation_xx @ B - 2 * R)).sum(0))
    least, chosen = torch.stack(squared).min(0)
    total = validation.scatter_yy.trace()
    fvu = float((total + validation.count * off_y.square().sum() + least.sum()) / total)
    weights = path[chosen]
    return DirectionalRidge(_solved(shared, P, basis, weights, fitted), basis, weights, fvu)


def ridge_along(train: Moments, basis: Tensor, weights: Tensor, *, bias: bool = True) -> AffineMap:
    """The map of other rows with the directions and weights of a `DirectionalRidge`.

    Raises ValueError for source rows that do not vary.
    """
    shared = SharedRidge(train, train, [0.0], bias=bias)
    fitted = train if bias else train.about_origin()
    return _solved(shared, shared.vectors.T @ fitted.scatter_xy @ basis, basis, weights, fitted)


def _solved(shared: SharedRidge, P: Tensor, basis: Tensor, weights: Tensor, fitted: Moments) -> AffineMap:
    B = P / (shared.eigenvalues[:, None] + weights)
    weight = ((shared.vectors @ B) @ basis.T).T.contiguous()
    return AffineMap(weight, fitted.mean_y - weight @ fitted.mean_x)
