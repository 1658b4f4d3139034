"""The cache of a decoder: what each block keeps of the tokens before, and how it is moved between batches.

A transformers cache has one layer object for each decoder block: keys and values (of all tokens or of a
sliding window), convolution and recurrent states, or both.
"""

import copy
from typing import Any

from torch import Tensor

from lrt.errors import InvalidValue
from lrt.models.blocks import BlockModel

CACHE_ARGUMENTS = ("past_key_values", "cache_params")
"""What models call the cache in their `forward`; the second is the state-space models' name."""


def empty_cache(lm: BlockModel) -> Any:
    """A cache without tokens."""
    from transformers import DynamicCache

    return DynamicCache(config=lm.model.config)


def put_below(cache: Any, below: Any, rows: Tensor, layer: int) -> None:
    """Fill the layers 0 to `layer` of a cache with those of `below`, whose items are repeated by `rows [r]`.

    `below` is not changed. Raises InvalidValue for a cache without a layer for each of these blocks.
    """
    if min(len(below.layers), len(cache.layers)) <= layer:
        raise InvalidValue(
            f"a cache of {len(below.layers)} layers does not hold those of blocks 0 to {layer}"
        )
    for index in range(layer + 1):
        mine = copy.deepcopy(below.layers[index])
        # every kind of layer has this method, and it moves all of a layer's states
        mine.reorder_cache(rows)
        cache.layers[index] = mine


def counts_tokens(cache: Any) -> bool:
    """Whether a cache knows the number of its tokens; one of states alone, as Mamba's, does not."""
    return any(hasattr(layer, "get_seq_length") for layer in cache.layers)


def cached_length(cache: Any) -> int:
    """The number of tokens in a cache; 0 for one whose layers do not count them."""
    counting = (layer for layer in cache.layers if hasattr(layer, "get_seq_length"))
    return max((int(layer.get_seq_length()) for layer in counting), default=0)
