"""Ridge regression with a separate weight for each direction of the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments
from lrt.mapping.ridge import SharedRidge, about, ridge_directions

# Candidate weights, in units of the best common weight.
RELATIVE_WEIGHTS = torch.logspace(-3, 4, 29, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class DirectionalRidge:
    """The map, and the ridge weight of each direction, on the CPU.

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
    """Ridge regression that chooses a weight for every principal direction of the target on validation rows.

    A common weight is a compromise dominated by the directions of most variance; a behaviour often lies in
    directions of little variance. The columns of a ridge map are independent, so after one decomposition of
    the source each candidate weight costs one product `[d_source, d_source] x [d_source, d_target]`.

    weight  The best common weight, in units of which the candidates are given; see `ridge_path`.

    Raises as `ridge_path`, and ValueError for a weight that is not above 0. Source: adaptive multivariate
    ridge regression, Brown and Zidek (1980).
    """
    if not weight > 0:
        raise ValueError(f"the common ridge weight must be above 0, got {weight}")
    candidates = (RELATIVE_WEIGHTS * weight).to(train.scatter_xx)
    shared = SharedRidge(train, validation, candidates, bias=bias)
    fitted = train if bias else train.about_origin()
    basis = torch.linalg.eigh(fitted.scatter_yy)[1]
    off_y = validation.mean_y - fitted.mean_y
    P = shared.vectors.T @ fitted.scatter_xy @ basis
    R = shared.vectors.T @ about(validation.scatter_xy, validation.count, shared.off_x, off_y) @ basis
    squared = []
    for candidate in candidates:
        B = P / (shared.eigenvalues + candidate)[:, None]
        squared.append((B * (shared.validation_xx @ B - 2 * R)).sum(0))
    least, chosen = torch.stack(squared).min(0)
    total = validation.scatter_yy.trace()
    fvu = float((total + validation.count * off_y.square().sum() + least.sum()) / total)
    weights = candidates[chosen]
    return DirectionalRidge(_solved(shared, P, basis, weights, fitted), basis.cpu(), weights.cpu(), fvu)


def directions_along(
    train: Moments,
    basis: Tensor,
    weights: Tensor,
    v: Tensor,  # [k, d_source], any float dtype
    *,
    bias: bool = True,
) -> Tensor:  # [k, d_target], float64 on the CPU
    """Transferred vectors `W v` of the ridge map of other rows, with the directions and weights of a
    `DirectionalRidge`.

    Directions of one weight are solved together (`ridge_directions`). Raises as `ridge_at`.
    """
    images = torch.zeros(len(v), len(basis), dtype=torch.float64)
    for weight in sorted(set(weights.tolist())):
        along = basis[:, weights == weight]
        images += ridge_directions(train, weight, v, bias=bias) @ along @ along.T
    return images


def _solved(shared: SharedRidge, P: Tensor, basis: Tensor, weights: Tensor, fitted: Moments) -> AffineMap:
    B = P / (shared.eigenvalues[:, None] + weights)
    weight = ((shared.vectors @ B) @ basis.T).T.contiguous()
    return AffineMap(weight, fitted.mean_y - weight @ fitted.mean_x).to("cpu")
