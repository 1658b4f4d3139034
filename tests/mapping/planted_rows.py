"""Rows of a planted map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.mapping import AffineMap, Moments, RidgeFit, ridge_path


@dataclass(frozen=True)
class Planted:
    """Rows from `y = W x + b + noise` with an ill-conditioned, off-centre source."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    truth: AffineMap
    train_moments: Moments
    validation_moments: Moments
    reference_ridge: RidgeFit


def plant(
    weight: Tensor,  # [d_target, d_source]
    condition: float = 1e4,
    noise: float = 0.05,
    offset: float = 5.0,
    rows: int = 8192,
    seed: int = 0,
) -> Planted:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    d_target, d_source = weight.shape
    # Standard deviations spread so that the covariance has this condition number, in a basis
    # that no coordinate axis gives away.
    deviations = torch.logspace(0, -0.5 * torch.log10(torch.tensor(condition)).item(), d_source)
    basis = torch.linalg.qr(normal(d_source, d_source)).Q
    mean = offset * normal(d_source)
    bias = 3 * normal(d_target)
    truth = AffineMap(weight.double(), bias)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x = (normal(n, d_source) * deviations) @ basis.T + mean
        y = truth.points(x) + noise * normal(n, d_target)
        return x.float(), y.float()

    train, validation = draw(rows), draw(rows // 4)
    moments = []
    for x, y in (train, validation):
        of_rows = Moments(d_source, d_target, products="float64")
        of_rows.update(x, y)
        moments.append(of_rows)
    return Planted(train, validation, truth, *moments, ridge_path(*moments))
