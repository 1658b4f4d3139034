"""Which layers of a model a map is fitted for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from typing import TypeGuard

from lrt.errors import InvalidValue
from lrt.models.stacked import StateModel

Layers = int | float | str | Sequence[int | float]
"""A block, a relative depth in [0, 1), several of these, `all`, `every N`, or `auto`."""

# where steering vectors usually work: from a quarter to three quarters of the depth
AUTO_DEPTHS = (0.25, 0.375, 0.5, 0.625, 0.75)


def one_layer(layers: object) -> TypeGuard[int | float]:
    """Whether this names one layer by itself, not a list of layers."""
    return isinstance(layers, Real)


def blocks_of(lm: StateModel, layers: Layers, setting: str) -> tuple[int, ...]:
    """The blocks that are named, from first to last.

    `auto` stands for up to five blocks from a quarter to three quarters of the model's depth.

    setting  The argument that names them, for messages.

    Raises InvalidValue for a layer that the model does not have or that is named twice, and for what names no
    layers.
    """
    if one_layer(layers):
        return (lm.resolve_layer(layers, setting),)
    match layers:
        case "auto":
            return tuple(sorted({lm.resolve_layer(depth, setting) for depth in AUTO_DEPTHS}))
        case "all":
            return tuple(range(lm.depth))
        case str() if every := re.fullmatch(r"every ([1-9]\d*)", layers):
            return tuple(range(0, lm.depth, int(every[1])))
        case Sequence() if layers and not isinstance(layers, str):
            return _each_once(lm, layers, setting)
    raise InvalidValue(
        f"{setting}={layers!r} names no layers: give a block (0 to {lm.depth - 1}), a relative depth in "
        "[0, 1), a list of these, 'all', 'every 4' (block 0, 4, 8 and so on), or 'auto'"
    )


def _each_once(lm: StateModel, layers: Sequence[int | float], setting: str) -> tuple[int, ...]:
    blocks = [lm.resolve_layer(layer, f"{setting}[{number}]") for number, layer in enumerate(layers)]
    if twice := sorted({block for block in blocks if blocks.count(block) > 1}):
        raise InvalidValue(
            f"{setting}={list(layers)} names block {twice[0]} of {lm.spec.name} twice; name each once"
        )
    return tuple(sorted(blocks))
