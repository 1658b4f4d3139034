"""Weights that accelerate has put elsewhere: in the CPU's memory, or on the disk."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def fetched(module: nn.Module, device: str | torch.device | None = None) -> AbstractContextManager[None]:
    """A module's own weights where they can be read, for as long as the context lasts.

    device  Where those that were put elsewhere are fetched to; where the module runs, if not told. Weights
            that are in their place stay there.
    """
    if not module.get_parameter("weight").is_meta:
        return nullcontext()
    from accelerate.utils import align_module_device

    context: AbstractContextManager[None] = align_module_device(module, device)
    return context
