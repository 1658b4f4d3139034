"""Hidden states of several layers side by side, as one row (the paper's appendix A).

A map between stacks is a plain affine map: block row `j`, block column `i` of its weight is what
source layer `i` gives to target layer `j`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stack:
    """Which columns of a stacked row are which layer's.

    Raises ValueError for no layers, or one named twice.
    """

    layers: tuple[int, ...]
    width: int  # of each layer

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"a stack is of at least one layer, each once; got {list(self.layers)}")

    @property
    def total(self) -> int:
        """Columns of a stacked row."""
        return len(self.layers) * self.width

    def columns(self, layer: int) -> slice:
        """The columns of one layer. Raises ValueError for a layer that is not in the stack."""
        if layer not in self.layers:
            raise ValueError(f"layer {layer} is not in the stack of layers {list(self.layers)}")
        start = self.layers.index(layer) * self.width
        return slice(start, start + self.width)

    def columns_of(self, layers: Iterable[int]) -> Tensor:  # [k] int64
        """The columns of several of its layers, in the order given."""
        places = torch.arange(self.total)
        return torch.cat([places[self.columns(layer)] for layer in layers])

    def part(
        self,
        stacked: Tensor,  # [..., total]
        layer: int,
    ) -> Tensor:  # [..., width]
        """One layer's part of stacked states or directions."""
        return stacked[..., self.columns(layer)]

    def alone(
        self,
        stacked: Tensor,  # [..., total]
        layer: int,
    ) -> Tensor:  # [..., total]
        """The same with every other layer's part zero: along this, a stack's error is one layer's."""
        kept = torch.zeros_like(stacked)
        columns = self.columns(layer)
        kept[..., columns] = stacked[..., columns]
        return kept
