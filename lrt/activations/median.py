"""The exact median of a stream of any length in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def streaming_median(
    stream: Callable[[], Iterable[Tensor]],  # each call starts the stream again; float32, [n] >= 0
) -> float:
    """Lower median of non-negative float32 values, by radix selection in two passes.

    The bits of non-negative floats order like the floats, so a histogram of the upper 16 bits finds
    the median's bucket and one of the lower 16 within that bucket finds the median itself.

    Raises ValueError where the stream is empty.
    """
    upper = torch.zeros(2**16, dtype=torch.int64)
    for values in stream():
        upper += torch.bincount(_bits(values) >> 16, minlength=2**16)
    count = int(upper.sum())
    if count == 0:
        raise ValueError("the median of no values is not defined")
    rank = (count - 1) // 2
    bucket, rank = _locate(upper, rank)
    lower = torch.zeros(2**16, dtype=torch.int64)
    for values in stream():
        bits = _bits(values)
        lower += torch.bincount(bits[(bits >> 16) == bucket] & 0xFFFF, minlength=2**16)
    rest, _ = _locate(lower, rank)
    return float(torch.tensor((bucket << 16) | rest, dtype=torch.int32).view(torch.float32))


def _bits(values: Tensor) -> Tensor:
    return values.to(torch.float32).contiguous().view(torch.int32).to(torch.int64)


def _locate(histogram: Tensor, rank: int) -> tuple[int, int]:
    """The bucket that holds the value of this rank, and the rank within the bucket."""
    cumulative = histogram.cumsum(0)
    bucket = int(torch.searchsorted(cumulative, rank, right=True))
    return bucket, rank - int(cumulative[bucket] - histogram[bucket])
