"""Plain numbers that compare two vectors, or a fit with the best possible one."""

from __future__ import annotations

import torch
from torch import Tensor

# An FVU below this is rounding error.
PERFECT = 1e-12


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two vectors `[d]`, computed in float64; 0 where one of them is zero."""
    a = a.double()
    return float(torch.cosine_similarity(a, b.to(a), dim=0, eps=1e-300))


def rest_beside(
    vector: Tensor,  # [d]
    others: Tensor,  # [k, d]
) -> Tensor:  # [d], float64
    """What is left of a vector beside the span of others: the residual of its regression on them."""
    others, vector = others.double(), vector.double().to(others.device)
    scale, basis = torch.linalg.svd(others, full_matrices=False)[1:]
    basis = basis[scale > 1e-10 * scale.max()]
    rest: Tensor = vector - basis.T @ (basis @ vector)
    return rest


def excess(fvu: float, optimum: float) -> float:
    """Relative excess `fvu / optimum - 1` of a fit's FVU over the optimum's; 0 for a perfect fit."""
    return 0.0 if fvu <= PERFECT else fvu / max(optimum, PERFECT) - 1
