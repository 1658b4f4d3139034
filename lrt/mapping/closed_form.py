"""Fit every kind of map from moments, without gradient steps on rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.errors import InvalidValue, UserError
from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments
from lrt.mapping.parametrisations import MapSpec, orthogonality_penalty
from lrt.mapping.procrustes import procrustes
from lrt.mapping.reduced_rank import reduced_rank_fit
from lrt.mapping.ridge import RidgeFit, ridge_path

# Gradient norm at which the penalised fit has converged. The objective is in units of FVU. In the coordinates
# of the search its curvature is near 2 (smaller along rotations for a large penalty). So the remaining
# improvement is of the order of the norm's square.
GRADIENT_TOLERANCE = 1e-6
PENALTY_STEPS = 5000
STEPS_BETWEEN_CHECKS = 10
# Iterations of the Procrustes start of the penalised fit, which need not converge.
START_ITERATIONS = 100


class NotConverged(UserError, RuntimeError):
    """An iterative fit that did not reach its optimum; the message names the settings to change."""


@dataclass(frozen=True, eq=False)
class ClosedFormFit:
    """A map fitted from moments, and how.

    ridge_weight  Added to the training scatter sum; None for kinds without a ridge.
    note          The method, and whether its optimum is exact, for cards and reports.
    """

    map: AffineMap  # float64, on the CPU
    ridge_weight: float | None
    fvu_validation: float
    note: str


def closed_form(
    spec: MapSpec,
    train: Moments,
    validation: Moments,
    *,
    ridge: RidgeFit | None = None,
    tolerance: float = GRADIENT_TOLERANCE,
) -> ClosedFormFit:
    """The best map of `spec.kind` for the training rows.

    - `full`: ridge regression, its weight chosen on the validation rows (`ridge_path`).
    - `low_rank`: reduced-rank regression at `spec.rank`, its ridge weight chosen on the validation rows at
      that rank.
    - `orthogonal`: Procrustes with scale, no ridge. Exact for d_source <= d_target, iterative otherwise.
    - `orthogonal_penalty`: minimises training FVU plus `spec.penalty * orthogonality_penalty(W)`, the loss
      of the gradient fit without ridge. There is no closed form: full-batch LBFGS in float64 goes from
      the Procrustes map to a stationary point. It needs memory for about 80 copies of `W` and tens to
      hundreds of steps: 50 for 96 -> 160 and 620 for 160 -> 96 at condition number 4,000, penalty 0.1.

    ridge      The result of `ridge_path` for these rows, where it is there already: it is the full map.
    tolerance  Gradient norm, in units of FVU, at which the penalised fit ends. The remaining improvement is
               about its square.

    `spec.bias=False` fits and scores maps through the origin. Raises InvalidValue for a spec that these
    widths do not allow and for rows that do not vary, NotConverged where the penalised fit does not converge,
    and ValueError for validation moments of other widths.
    """
    spec.check(train.d_source, train.d_target)
    if (train.d_source, train.d_target) != (validation.d_source, validation.d_target):
        raise ValueError(
            f"training moments are {train.d_source} -> {train.d_target}, validation moments "
            f"{validation.d_source} -> {validation.d_target}"
        )
    match spec.kind:
        case "full":
            ridge = ridge or ridge_path(train, validation, bias=spec.bias)
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
        end = "a stationary point" if fit.converged else "the limit of iterations, not converged"
        note = (
            f"Procrustes with scale, which has no closed form for widths {train.d_source} -> "
            f"{train.d_target}: {fit.iterations} iterations to {end}"
        )
    return _scored(fit.map, None, validation, note)


def _penalised(spec: MapSpec, train: Moments, tolerance: float) -> tuple[AffineMap, str]:
    penalty = spec.penalty
    assert penalty is not None
    start = procrustes(train, bias=spec.bias, iterations=START_ITERATIONS)
    if not start.scale > 0:
        raise InvalidValue(
            "source and target rows are uncorrelated, so the penalised map has no scale to start from: "
            "choose other layers, or map.kind=full"
        )
    fitted = train if spec.bias else train.about_origin()
    xx, xy, yy = fitted.scatter_xx, fitted.scatter_xy, fitted.scatter_yy.trace()
    total = train.scatter_yy.trace()

    # With W = A M^-1/2 the objective is well conditioned: M is the curvature of the FVU plus half the largest
    # curvature of the penalty at W = c Q. Outside the row space of Q the penalty has little curvature, but
    # some once W moves: without the tenth below, rows that do not span their space never converge.
    narrow = min(train.d_source, train.d_target)
    W = start.map.weight.to(xx)
    Q = W / start.scale
    stiffness = 2 * penalty / (start.scale**2 * narrow)
    eigenvalues, V = torch.linalg.eigh(xx / total + stiffness * Q.T @ Q)
    curvature = eigenvalues.clamp(min=0) + 0.1 * stiffness
    whiten = (V * curvature.sqrt()) @ V.T
    unwhiten = (V / curvature.sqrt()) @ V.T
    A = (W @ whiten).requires_grad_()

    def objective() -> Tensor:
        W = A @ unwhiten
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
                    f"the fit with map.penalty={penalty:g} did not converge in {steps} steps of LBFGS: its "
                    f"gradient norm is {size:.1e} and must be at most {tolerance:g}. Lower map.penalty, or "
                    "set map.kind=orthogonal, the limit of a large penalty"
                )
            optimiser.step(closure)
            steps += STEPS_BETWEEN_CHECKS
            (gradient,) = torch.autograd.grad(objective(), A)
            before, size = size, float(gradient.norm())
            # Past a saddle point the history can make every further step tiny; a new optimiser has none.
            if abs(size / before - 1) < 1e-3:
                optimiser = lbfgs()
    weight = (A.detach() @ unwhiten).contiguous()
    note = (
        "LBFGS from Procrustes on the training moments, since map.kind=orthogonal_penalty has no closed "
        f"form: {steps} steps to gradient norm {size:.0e}, a stationary point; no ridge"
    )
    return AffineMap(weight, fitted.mean_y - weight @ fitted.mean_x).to("cpu"), note
