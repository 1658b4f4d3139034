"""Tensors that are copied once to each device that uses them, not at every call of a hook."""

from __future__ import annotations

import torch
from torch import Tensor


class Placed:
    """Tensors in float32, on whichever device asks for them.

    A model that is spread over several devices asks for several copies. The tensors must not change after
    the first copy.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors
        self._copies: dict[torch.device, tuple[Tensor, ...]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """The tensors on a device, in their order."""
        if device not in self._copies:
            self._copies[device] = tuple(tensor.to(device, torch.float32) for tensor in self._tensors)
        return self._copies[device]
