"""Which number format a model runs in, where the user leaves the choice to us."""

import time
from functools import lru_cache

import torch

_PROBE_ROWS = 256
_PROBE_REPEATS = 7
# A narrower model spends its time outside the matrix products, where bfloat16 gains nothing.
_NARROWEST_WORTH_PROBING = 512
# A gain below this is inside the noise of a busy machine, and the answer ought not to flip.
_LEAST_GAIN = 1.3


def resolve_dtype(requested: str, checkpoint: torch.dtype, device: torch.device, width: int) -> torch.dtype:
    """The format to run in.

    requested   A name of `DtypeName`; anything but `auto` is taken literally.
    checkpoint  The format of the stored weights.
    width       Hidden size, which decides whether bfloat16 pays on a CPU.
    """
    if requested != "auto":
        dtype = getattr(torch, requested)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if device.type != "cpu":
        return checkpoint
    if checkpoint == torch.bfloat16 and bfloat16_pays(width):
        return torch.bfloat16
    return torch.float32


@lru_cache(maxsize=64)
def bfloat16_pays(width: int) -> bool:
    """Whether this CPU multiplies bfloat16 matrices of a model that wide clearly faster."""
    if width < _NARROWEST_WORTH_PROBING:
        return False
    return _product_seconds(torch.bfloat16, width) * _LEAST_GAIN < _product_seconds(torch.float32, width)


def _product_seconds(dtype: torch.dtype, width: int) -> float:
    # Zeros would do for the time, but not for the denormals that uninitialised memory may hold.
    rows = torch.ones(_PROBE_ROWS, width, dtype=dtype)
    weight = torch.ones(width, 4 * width, dtype=dtype)
    seconds = []
    for _ in range(_PROBE_REPEATS):
        start = time.perf_counter()
        rows @ weight
        seconds.append(time.perf_counter() - start)
    return min(seconds)
