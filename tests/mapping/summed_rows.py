"""Moments of rows that lie in memory."""

from torch import Tensor

from lrt.mapping import Moments


def moments_of(x: Tensor, y: Tensor) -> Moments:
    """Of paired rows `[n, d_source]` and `[n, d_target]`, summed in float64 throughout."""
    moments = Moments(x.shape[1], y.shape[1], products="float64")
    moments.update(x, y)
    return moments
