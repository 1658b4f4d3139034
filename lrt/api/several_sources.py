"""Several source models whose states one map reads side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lrt.api.layer_spec import Layers, blocks_of, one_layer
from lrt.errors import InvalidValue
from lrt.models import LanguageModel
from lrt.models.stacked import StackedModel
from lrt.steering import stacked


def stack_of(
    sources: Sequence[LanguageModel], layers: tuple[Any, Layers], neutral_texts: Sequence[str]
) -> StackedModel:
    """The sources as one model, each in units of its own size (`lrt.steering.stacked`).

    layers  Of each source, a layer or a list of them; and the target's.

    Raises InvalidValue for no sources, one twice, layers that are not one entry for each source, and several
    target layers.
    """
    for number, each in enumerate(sources):
        if not isinstance(each, LanguageModel):
            raise InvalidValue(f"source[{number}]={each!r} must be a model; load it with lrt.load")
    if not isinstance(layers, tuple | list) or len(layers) != 2:
        raise InvalidValue(f"layers={layers!r}; it must be a pair: (of each source, of the target)")
    named, to = layers
    if not isinstance(named, Sequence) or isinstance(named, str) or len(named) != len(sources):
        raise InvalidValue(
            f"layers[0]={named!r}; with {len(sources)} sources it must be a list with an entry for each: a "
            "layer, or a list of layers"
        )
    if not one_layer(to):
        raise InvalidValue(f"layers[1]={to!r}; the map of several sources writes one layer of the target")
    blocks = [
        blocks_of(lm, each, f"layers[0][{number}]")
        for number, (lm, each) in enumerate(zip(sources, named, strict=True))
    ]
    return stacked(sources, blocks, neutral_texts)
