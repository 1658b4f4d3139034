"""Every kind of map fitted from moments, without a gradient step on rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments
from lrt.mapping.parametrisations import MapSpec, orthogonality_penalty
from lrt.mapping.procrustes import procrustes
from lrt.mapping.reduced_rank import reduced_rank_fit
from lrt.mapping.ridge import ridge_path

# Gradient norm at which the penalised fit has converged. The objective is in units of FVU, and in the
# coordinates it works in its curvature is near 2 (for a large penalty less, along rotations, by about
# the penalty), so what is left to gain is of the order of the norm's square.
GRADIENT_TOLERANCE = 1e-6
PENALTY_STEPS = 5000
STEPS_BETWEEN_CHECKS = 10
# The start of the penalised fit need not have converged itself.
START_ITERATIONS = 100


class NotConverged(RuntimeError):
    """An iterated fit that ended before its optimum; the message says what to change."""


@dataclass(frozen=True, eq=False)
class ClosedFormFit:
    """A map fitted from moments, and how.

    `ridge_weight` is on the training scatter sum, None where the kind takes none. `note` is a
    sentence for cards and reports: the method, and whether its optimum is exact.
    """

    map: AffineMap  # float64
    ridge_weight: float | None
    fvu_validation: float
    note: str


def closed_form(
    spec: MapSpec,
    train: Moments,
    validation: Moments,
    *,
    tolerance: float = GRADIENT_TOLERANCE,
) -> ClosedFormFit:
    """The map of `spec.kind` that the training moments call for.

    - `full`: ridge, its weight chosen on the validation rows (`ridge_path`).
    - `low_rank`: reduced-rank regression at `spec.rank`, the ridge weight chosen on the validation
      rows at that rank.
    - `orthogonal`: Procrustes with scale, no ridge. Exact for d_source <= d_target, iterated otherwise.
      `spec.orthogonal_form` is how the gradient fit writes `Q`; the set of maps is the same.
    - `orthogonal_penalty`: training FVU plus `spec.penalty * orthogonality_penalty(W)`, the gradient
      fit's loss without its ridge. It has no closed form: it is minimised from the moments by
      full-batch LBFGS in float64, started from Procrustes, to a stationary point. It keeps some 80
      copies of `W` and takes tens to hundreds of steps, most for a source wider than the target: 50 for
      96 -> 160 and 620 for 160 -> 96 at condition number 4,000 and penalty 0.1.

    `tolerance` is the gradient norm, in units of FVU, at which the penalised fit ends; what is left to
    gain is about its square.
    `spec.bias=False` fits and scores maps through the origin. Raises ValueError for a spec that these
    widths do not allow, validation moments of other widths, and rows that do not vary; NotConverged
    where the penalised fit does not.
    """
    spec.check(train.d_source, train.d_target)
    if (train.d_source, train.d_target) != (validation.d_source, validation.d_target):
        raise ValueError(
            f"training moments are {train.d_source} -> {train.d_target}, validation moments "
            f"{validation.d_source} -> {validation.d_target}"
        )
    match spec.kind:
        case "full":
            ridge = ridge_path(train, validation, bias=spec.bias)
            note = "ridge regression, exact; weight chosen on the validation rows"
            return _scored(ridge.map, ridge.weight, validation, note)
        case "low_rank":
            assert spec.rank is not None
            reduced = reduced_rank_fit(train, validation, spec.rank, bias=spec.bias)
            note = f"reduced-rank regression with ridge, exact; weight chosen at rank {spec.rank}"
            return _scored(reduced.map(spec.rank), reduced.weight, validation, note)
        case "orthogonal":
            return _orthogonal(spec, train, validation)
        case "orthogonal_penalty":
            affine, note = _penalised(spec, train, tolerance)
            return _scored(affine, None, validation, note)


def _scored(affine: AffineMap, weight: float | None, validation: Moments, note: str) -> ClosedFormFit:
    return ClosedFormFit(affine, weight, validation.fvu_of(affine), note)


def _orthogonal(spec: MapSpec, train: Moments, validation: Moments) -> ClosedFormFit:
    fit = procrustes(train, bias=spec.bias)
    if fit.exact:
        note = "Procrustes with scale, exact"
    else:
        end = "a stationary point" if fit.converged else "its limit of iterations, not converged"
        note = (
            f"Procrustes with scale has no closed form for widths {train.d_source} -> {train.d_target}: "
            f"iterated {fit.iterations} times to {end}"
        )
    return _scored(fit.map, None, validation, note)


def _penalised(spec: MapSpec, train: Moments, tolerance: float) -> tuple[AffineMap, str]:
    penalty = spec.penalty
    assert penalty is not None
    start = procrustes(train, bias=spec.bias, iterations=START_ITERATIONS)
    if not start.scale > 0:
        raise ValueError(
            "source and target rows are uncorrelated, so the penalised map has no scale to start from: "
            "check that the rows are paired"
        )
    fitted = train if spec.bias else train.about_origin()
    xx, xy, yy = fitted.scatter_xx, fitted.scatter_xy, fitted.scatter_yy.trace()
    total = train.scatter_yy.trace()

    # In W = A M^-1/2 the objective is well conditioned: M is the curvature of the FVU plus half the
    # largest curvature of the penalty at W = c Q. The penalty bends little off the row space of Q, but
    # not nothing once W moves: without the tenth, rows that do not span their space never converge.
    narrow = min(train.d_source, train.d_target)
    Q = start.map.weight / start.scale
    stiffness = 2 * penalty / (start.scale**2 * narrow)
    eigenvalues, V = torch.linalg.eigh(xx / total + stiffness * Q.T @ Q)
    curvature = eigenvalues.clamp(min=0) + 0.1 * stiffness
    forth = (V * curvature.sqrt()) @ V.T
    back = (V / curvature.sqrt()) @ V.T
    A = (start.map.weight @ forth).requires_grad_()

    def objective() -> Tensor:
        W = A @ back
        unexplained = yy + (W * (W @ xx - 2 * xy.T)).sum()
        value: Tensor = unexplained / total + penalty * orthogonality_penalty(W)
        return value

    def closure() -> float:
        value = objective()
        (A.grad,) = torch.autograd.grad(value, A)
        return float(value.detach())

    def lbfgs() -> torch.optim.Optimizer:
        return torch.optim.LBFGS(
            [A],
            max_iter=STEPS_BETWEEN_CHECKS,
            max_eval=20 * STEPS_BETWEEN_CHECKS,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            history_size=40,
            line_search_fn="strong_wolfe",
        )

    optimiser = lbfgs()
    steps, size = 0, float("inf")
    with torch.enable_grad():
        while not size <= tolerance:
            if steps >= PENALTY_STEPS:
                raise NotConverged(
                    f"the map with map.penalty={penalty:g} did not converge in {steps} steps of LBFGS: "
                    f"gradient norm {size:.1e}, {tolerance:g} is wanted. Lower map.penalty, or take "
                    "map.kind=orthogonal, which is its limit"
                )
            optimiser.step(closure)
            steps += STEPS_BETWEEN_CHECKS
            (gradient,) = torch.autograd.grad(objective(), A)
            before, size = size, float(gradient.norm())
            # Past a saddle its history can ask for steps of next to no length, and go on doing so.
            if abs(size / before - 1) < 1e-3:
                optimiser = lbfgs()
    weight = (A.detach() @ back).contiguous()
    note = (
        "no closed form exists for map.kind=orthogonal_penalty: LBFGS from Procrustes on the training "
        f"moments, {steps} steps to gradient norm {size:.0e}, a stationary point; no ridge"
    )
    return AffineMap(weight, fitted.mean_y - weight @ fitted.mean_x), note
