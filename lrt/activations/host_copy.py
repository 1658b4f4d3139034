"""Copies from a GPU to the CPU that run beside the GPU's later work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


def copies_aside(device: torch.device) -> bool:
    """Whether copies from this device run beside its work, so that it pays to await them later."""
    return device.type == "cuda"


def begin_copy(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU; the function that is returned waits for the copy and gives it.

    From a GPU the copy goes into page-locked memory, on a stream of its own: kernels launched afterwards do
    not wait for it. The tensor must not be changed before the copy is there. A tensor on the CPU is given as
    it is.
    """
    if not copies_aside(tensor.device):
        there = tensor.cpu()
        return lambda: there
    stream = _copy_stream(tensor.device)
    stream.wait_stream(torch.cuda.current_stream(tensor.device))  # until the tensor is computed
    with torch.cuda.stream(stream):
        # torch keeps page-locked memory and hands it out again once the copy into it has ended
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        copy.copy_(tensor, non_blocking=True)
        copied = stream.record_event()
    tensor.record_stream(stream)  # its memory is not reused before the copy has ended

    def finished() -> Tensor:
        copied.synchronize()
        return copy

    return finished


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
