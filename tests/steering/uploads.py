"""Copies from the CPU to another device, counted. The `meta` device stands in for a GPU."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Uploads(TorchDispatchMode):
    """Counts the tensors that are copied from the CPU to the `meta` device in the body."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        moved = isinstance(out, Tensor) and out.device.type == "meta"
        self.count += moved and any(isinstance(a, Tensor) and a.device.type == "cpu" for a in args)
        return out


def states_elsewhere(rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Hidden states `[rows, 1, width]` in bfloat16 and positions, on the `meta` device."""
    return (
        torch.zeros(rows, 1, width, dtype=torch.bfloat16, device="meta"),
        torch.zeros(rows, 1, dtype=torch.long, device="meta"),
    )
