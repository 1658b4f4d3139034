"""Hidden states of several layers side by side, as one row (the paper's appendix A).

A map between stacks is a plain affine map: block row `j`, block column `i` of its weight is what
source layer `i` gives to target layer `j`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.mapping.grid_moments import GridMoments
from lrt.mapping.moments import Moments


@dataclass(frozen=True)
class LayerConcat:
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


def of_layers(
    moments: Moments,
    stacks: tuple[LayerConcat, LayerConcat],  # source and target of the moments' rows
    source_layers: tuple[int, ...],
    target_layers: tuple[int, ...],
) -> Moments:
    """Moments of some layers of stacked rows, side by side in the order given.

    The moments themselves where that is all of them as they are stacked, a copy of the parts otherwise.
    Raises ValueError for no layers, one named twice or not in its stack, and moments that are not of the
    stacks.
    """
    source, target = stacks
    _check_widths(moments, source, target, "these")
    if (source_layers, target_layers) == (source.layers, target.layers):
        return moments
    return moments.part(_places(source, source_layers), _places(target, target_layers))


def check_stacked(
    moments: Moments | GridMoments, source: LayerConcat, target: LayerConcat, name: str
) -> None:
    """Raises ValueError where the moments called `name` are not of the stacks' layers, or have no rows."""
    if isinstance(moments, GridMoments):
        found = (moments.source_layers, moments.d_source), (moments.target_layers, moments.d_target)
        wanted = (source.layers, source.width), (target.layers, target.width)
        if found != wanted:
            raise ValueError(f"{name} moments are of layers and widths {found}, the stacks of {wanted}")
    else:
        _check_widths(moments, source, target, name)
    if moments.count == 0:
        raise ValueError(f"the {name} moments have seen no rows: give the corpus more documents")


def _check_widths(moments: Moments, source: LayerConcat, target: LayerConcat, name: str) -> None:
    if (moments.d_source, moments.d_target) != (source.total, target.total):
        raise ValueError(
            f"{name} moments are {moments.d_source} -> {moments.d_target}, the stacks {source.total} -> {target.total}"
        )


def _places(stack: LayerConcat, layers: tuple[int, ...]) -> slice | Tensor:
    """The columns of some layers; a slice where they follow each other, since its blocks are no copies."""
    wanted = LayerConcat(layers, stack.width)
    first = stack.columns(layers[0])
    start = stack.layers.index(layers[0])
    if stack.layers[start : start + len(layers)] == layers:
        return slice(first.start, first.start + wanted.total)
    return stack.columns_of(layers)
