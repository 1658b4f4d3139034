"""Access to weights that accelerate has offloaded to the CPU's memory or to disk."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def fetched(module: nn.Module, device: str | torch.device | None = None) -> AbstractContextManager[None]:
    """Context in which a module's own weights can be read.

    device  Where offloaded weights are loaded to; by default where the module runs. Weights that are not
            offloaded stay where they are.
    """
    if not module.get_parameter("weight").is_meta:
        return nullcontext()
    from accelerate.utils import align_module_device

    context: AbstractContextManager[None] = align_module_device(module, device)
    return context
