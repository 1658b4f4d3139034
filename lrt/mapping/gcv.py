"""Generalised cross-validation (GCV) of the ridge path: a diagnostic, not for choosing the weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.moments import Moments
from lrt.mapping.ridge import SharedRidge


def gcv_curve(
    ridge: SharedRidge,
    train: Moments,
    weights: Sequence[float] | Tensor,  # [k]
) -> Tensor:  # [k], float64 on the CPU, in the order of `weights`
    """The GCV estimate of FVU at each ridge weight, from training moments alone.

    It is `n RSS / (n - df)^2` over the target's variance per row, in the units of `RidgeFit.curve`. `df` is
    the trace of the hat matrix, plus one for the bias.

    GCV assumes independent rows, but neighbouring tokens are correlated. So the curve is too low at small
    weights, and its minimum is at a smaller weight than held-out documents choose. Choose by `ridge_path`.

    ridge  The decomposition of the training rows.

    Raises InvalidValue for target rows that do not vary and a weight at which the fit has as many degrees of
    freedom as rows; ValueError for other rows than those decomposed, no weights, or some that are negative or
    not finite.

    Source: Golub, Heath and Wahba (1979).
    """
    fitted = ridge.fitted(train)
    path = torch.as_tensor(weights).to(ridge.vectors)
    if path.ndim != 1 or len(path) == 0 or not (path >= 0).all() or not path.isfinite().all():
        raise ValueError(f"ridge weights must be a list of finite numbers of at least 0, got {path.tolist()}")
    variance = train.scatter_yy.trace() / train.count
    if not variance > 0:
        raise InvalidValue("the target rows do not vary: give the corpus more documents")
    eigenvalues, V = ridge.eigenvalues, ridge.vectors
    # Directions without variance have no degree of freedom, also at weight zero.
    eigenvalues = torch.where(eigenvalues > 1e-14 * eigenvalues[-1], eigenvalues, 0.0)
    aligned = (V.T @ fitted.scatter_xy).square().sum(1)  # [d_source]
    ridged = eigenvalues + path[:, None]  # [k, d_source]
    inverse = torch.where(ridged > 0, 1 / ridged, 0.0)
    freedom = inverse @ eigenvalues + (1 if ridge.bias else 0)
    residual = fitted.scatter_yy.trace() - (2 * inverse - eigenvalues * inverse.square()) @ aligned
    left = train.count - freedom
    if (left < 1e-9 * train.count).any():
        weight = float(path[int(left.argmin())])
        raise InvalidValue(
            f"at ridge weight {weight:g} the fit has {float(freedom.max()):.1f} degrees of freedom, and "
            f"needs fewer than its {train.count} rows: use more rows (corpus.tokens) or a larger weight"
        )
    curve: Tensor = train.count * residual.clamp(min=0) / left.square() / variance
    return curve.cpu()
