"""Procrustes with scale, from moments: the best map that preserves angles.

For a source at most as wide as the target the solution is exact, from one thin SVD (Schönemann and Carroll
1970, with orthonormal columns instead of a square rotation). For a wider source there is no closed form,
since `||Q x||` depends on `Q`, and the solution is iterative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments


@dataclass(frozen=True, eq=False)
class Procrustes:
    """The map `x -> c Q x + b` with `Q` semi-orthogonal and `c = scale >= 0`.

    exact      Whether it is the global optimum (d_source <= d_target).
    converged  Otherwise: whether it is a stationary point, or only the best so far.
    history    FVU on the training rows at the start and after each iteration.
    """

    map: AffineMap  # float64, on the CPU
    scale: float
    iterations: int
    exact: bool
    converged: bool
    history: Tensor  # [iterations + 1]


def procrustes(
    train: Moments,
    *,
    bias: bool = True,
    iterations: int = 500,
    tolerance: float = 1e-6,
) -> Procrustes:
    """Minimise `sum ||c Q x + b - y||^2` over scale, semi-orthogonal `Q` and bias.

    With `S` and `C` the centred scatters `xx` and `xy`:

    - d_source <= d_target, `Q'Q = I`: `C = U diag(s) V'` gives `Q = V U'` and `c = sum(s) / tr S`.
      Exact, no iteration.
    - d_source > d_target, `QQ' = I`: iterative (ten Berge and Knol 1984). The target is completed by
      d_source - d_target free columns. With `c` and an orthogonal completion `Q2` of `Q` fixed, the best free
      columns are `c Q2 x`. That is a square problem with cross moment `[C, c S Q2']`: its polar factor holds
      the next `Q` and `Q2`, and `c` follows in closed form.

    The iteration starts at the polar factor of `C`. Steps are extrapolated (Nesterov), and repeated without
    extrapolation where that would raise the error, so the error never rises. It ends when the gradient of the
    training FVU on the manifold has a norm of at most `tolerance`, or after `iterations`. Another start can
    end at another point. An iteration takes one or two SVDs of a square matrix of size d_source.

    Raises InvalidValue for rows that do not vary, ValueError for iterations below 1 or a tolerance of 0 or
    less.
    """
    if iterations < 1 or not tolerance > 0:
        raise ValueError(
            f"procrustes needs iterations of at least 1 and a tolerance above 0, got {iterations} and "
            f"{tolerance}"
        )
    fitted = train if bias else train.about_origin()
    total = float(train.scatter_yy.trace())
    for side, variation in (("source", float(fitted.scatter_xx.trace())), ("target", total)):
        if not variation > 0:
            raise InvalidValue(f"the {side} rows do not vary: give the corpus more documents")
    search = _Search(fitted.scatter_xx, fitted.scatter_xy, float(fitted.scatter_yy.trace()), total)
    exact = train.d_source <= train.d_target
    if exact:
        best = search.at(polar(fitted.scatter_xy))
        converged, history = True, [best.fvu]
    else:
        best, converged, history = search.descend(iterations, tolerance)
    weight = (best.scale * best.columns[:, : train.d_target].T).contiguous()
    return Procrustes(
        map=AffineMap(weight, fitted.mean_y - weight @ fitted.mean_x).to("cpu"),
        scale=best.scale,
        iterations=len(history) - 1,
        exact=exact,
        converged=converged,
        history=torch.tensor(history, dtype=torch.float64),
    )


def polar(
    matrix: Tensor,  # [n, m]
) -> Tensor:  # [n, m]
    """The nearest matrix with orthonormal rows or columns (the shorter side)."""
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    nearest: Tensor = U @ Vh
    return nearest


@dataclass(frozen=True, eq=False)
class _Point:
    columns: Tensor  # Q', then the completion Q2' of a wider source
    scale: float  # the best c for this Q
    fvu: float


@dataclass(frozen=True, eq=False)
class _Search:
    xx: Tensor  # [d_source, d_source]
    xy: Tensor  # [d_source, d_target]
    yy: float  # trace
    total: float  # denominator of the FVU

    def at(self, columns: Tensor) -> _Point:
        narrow = columns[:, : self.xy.shape[1]]
        aligned = float((narrow * self.xy).sum())
        # With orthonormal rows in `narrow` this is tr S.
        length = float((narrow * (self.xx @ narrow)).sum())
        scale = aligned / length if length > 0 else 0.0
        return _Point(columns, scale, max((self.yy - scale * aligned) / self.total, 0.0))

    def gradient_norm(self, point: _Point) -> float:
        """Norm of the gradient of the FVU in `Q`, projected on the tangent space of the manifold."""
        P = point.columns[:, : self.xy.shape[1]]
        c = point.scale
        raw = 2 * c * (c * (self.xx @ P) - self.xy) / self.total
        inner = P.T @ raw
        return float((raw - P @ (inner + inner.T) / 2).norm())

    def descend(self, iterations: int, tolerance: float) -> tuple[_Point, bool, list[float]]:
        d_target = self.xy.shape[1]
        point = self.at(torch.linalg.qr(polar(self.xy), mode="complete").Q)
        # QR can flip the signs of the given columns, so they are put back.
        point = self.at(torch.cat([polar(self.xy), point.columns[:, d_target:]], 1))
        history = [point.fvu]
        before: Tensor | None = None
        momentum = 0
        while self.gradient_norm(point) > tolerance:
            if len(history) > iterations:
                return point, False, history
            completed = torch.cat([self.xy, point.scale * (self.xx @ point.columns[:, d_target:])], 1)
            step: _Point | None = None
            if before is not None and momentum:
                step = self.at(polar(completed + momentum / (momentum + 3) * (completed - before)))
            if step is None or step.fvu >= point.fvu or step.scale <= 0:
                step, momentum = self.at(polar(completed)), 0
            if step.fvu > point.fvu:  # only by rounding: it cannot improve further
                return point, False, history
            point, before = step, completed
            momentum += 1
            history.append(point.fvu)
        return point, True, history
