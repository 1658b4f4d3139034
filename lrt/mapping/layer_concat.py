"""Hidden states of several layers side by side, as one row (the paper's appendix A).

A map between concatenated layers is a plain affine map: block row `j`, block column `i` of its weight takes
source layer `i` to target layer `j`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.grid_moments import GridMoments
from lrt.mapping.moments import Moments


@dataclass(frozen=True)
class LayerConcat:
    """The layers side by side in a row, and the columns of each.

    layers  Layers in the order of their columns.
    width   Columns of each layer.

    Raises InvalidValue for no layers, or one named twice.
    """

    layers: tuple[int, ...]
    width: int

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise InvalidValue(f"layers={list(self.layers)}: name at least one layer, and each only once")

    @property
    def total(self) -> int:
        """Columns of a whole row."""
        return len(self.layers) * self.width

    def columns(self, layer: int) -> slice:
        """The columns of one layer. Raises ValueError for a layer that is not one of `layers`."""
        if layer not in self.layers:
            raise ValueError(f"layer {layer} is not one of the concatenated layers {list(self.layers)}")
        start = self.layers.index(layer) * self.width
        return slice(start, start + self.width)

    def columns_of(self, layers: Iterable[int]) -> Tensor:  # [k] int64
        """The columns of several layers, in the order of the argument."""
        places = torch.arange(self.total)
        return torch.cat([places[self.columns(layer)] for layer in layers])

    def part(
        self,
        states: Tensor,  # [..., total]
        layer: int,
    ) -> Tensor:  # [..., width]
        """One layer's columns of states or directions."""
        return states[..., self.columns(layer)]

    def alone(
        self,
        states: Tensor,  # [..., total]
        layer: int,
    ) -> Tensor:  # [..., total]
        """A copy with the columns of all other layers set to zero: an error along it is one layer's error."""
        only = torch.zeros_like(states)
        columns = self.columns(layer)
        only[..., columns] = states[..., columns]
        return only


def of_layers(
    moments: Moments,
    concats: tuple[LayerConcat, LayerConcat],  # source and target layers of the moments' rows
    source_layers: tuple[int, ...],
    target_layers: tuple[int, ...],
) -> Moments:
    """Moments of some of the concatenated layers, side by side in the order of the arguments.

    The moments themselves where that is all layers in their own order, else a copy. Raises ValueError for a
    layer that is not among them and for moments of other widths, InvalidValue for no layers or one named
    twice.
    """
    source, target = concats
    _check_widths(moments, source, target, "these")
    if (source_layers, target_layers) == (source.layers, target.layers):
        return moments
    return moments.part(_places(source, source_layers), _places(target, target_layers))


def check_layers(moments: Moments | GridMoments, source: LayerConcat, target: LayerConcat, name: str) -> None:
    """Check that the moments called `name` have rows and are of these layers.

    Raises ValueError for other layers or widths, InvalidValue for no rows.
    """
    if isinstance(moments, GridMoments):
        actual = (moments.source_layers, moments.d_source), (moments.target_layers, moments.d_target)
        expected = (source.layers, source.width), (target.layers, target.width)
        if actual != expected:
            raise ValueError(f"{name} moments have layers and widths {actual}, expected {expected}")
    else:
        _check_widths(moments, source, target, name)
    if moments.count == 0:
        raise InvalidValue(f"the {name} moments have no rows: give the corpus more documents")


def layer_concat_bytes(source: LayerConcat, target: LayerConcat, copies: int) -> int:
    """Exact bytes of the float64 sums of `copies` `Moments` of concatenated layers."""
    D, E = source.total, target.total
    return copies * 8 * (D**2 + D * E + E**2 + 2 * (D + E))


def _check_widths(moments: Moments, source: LayerConcat, target: LayerConcat, name: str) -> None:
    if (moments.d_source, moments.d_target) != (source.total, target.total):
        raise ValueError(
            f"{name} moments are {moments.d_source} -> {moments.d_target}, the concatenated layers "
            f"{source.total} -> {target.total}"
        )


def _places(concat: LayerConcat, layers: tuple[int, ...]) -> slice | Tensor:
    """The columns of some layers: a slice, which copies nothing, where the layers are consecutive."""
    part = LayerConcat(layers, concat.width)
    first = concat.columns(layers[0])
    start = concat.layers.index(layers[0])
    if concat.layers[start : start + len(layers)] == layers:
        return slice(first.start, first.start + part.total)
    return concat.columns_of(layers)
