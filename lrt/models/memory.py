"""How many rows of a batch a model's device can hold, and smaller batches where it could not after all."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lrt.models.hardware import free_bytes

if TYPE_CHECKING:
    from lrt.models.language_model import LanguageModel

log = logging.getLogger(__name__)
T = TypeVar("T")

SHARE = 0.8
"""Of a GPU's free memory: the estimate knows nothing of fragmentation or of a family's own buffers."""
WITHOUT_GPU = 4_000_000_000
"""Bytes of a batch where free memory cannot be asked for, and too much of it would end the process."""
TABLES = 4  # of float32 logits at a time: the head's own, their float32 copy, noise, and a result


def run_in_batches(
    lm: LanguageModel,
    items: int,
    row_bytes: int,
    run: Callable[[slice, int], T],
    *,
    max_rows: int,
    rows_per_item: int = 1,
) -> Iterator[T]:
    """Results of `run(some, rows)` for slices of the items, in order. A slice has at most `rows` rows, unless
    one item has more: then `run` has to split it.

    `rows` is what the model's device can hold, and at most `max_rows`. Where memory runs out all the same,
    the batch is halved, and so are the later ones of this model. Raises the error of a batch of one row.

    row_bytes  Bytes of a row, by `row_bytes`.
    """
    start = 0
    while start < items:
        rows = max(1, min(max_rows, int(lm.memory_factor * batch_bytes(lm) / row_bytes)))
        some = slice(start, min(start + max(1, rows // rows_per_item), items))
        tried = min(rows, (some.stop - start) * rows_per_item)
        try:
            result = run(some, rows)
        except (RuntimeError, MemoryError) as error:
            if tried == 1 or not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        else:
            yield result
            start = some.stop
            continue
        # not within `except`, whose traceback holds the batch's tensors
        lm.memory_factor = tried // 2 * (row_bytes + 1) / batch_bytes(lm)
        log.warning("%s: a batch of %d rows is halved: %s", lm.spec.name, tried, reason)
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


def row_bytes(lm: LanguageModel, tokens: int, new: int = 0, logits: int = 1) -> int:
    """Bytes that a row of a batch takes beside the weights, estimated from the model's config.

    tokens  Of its prompt.
    new     Tokens that are generated; keys and values are kept for these and the prompt. 0: none are.
    logits  Columns whose logits are computed.
    """
    config, item = lm.text_config, lm.dtype.itemsize
    layers = layer_configs(lm)
    heads = max(_heads(layer) for layer in layers)
    inner = max(_inner(layer, lm.width) for layer in layers)
    # of one block at a time, the largest
    activations = tokens * (8 * lm.width + 3 * inner) * item
    if lm.model.config._attn_implementation == "eager":
        activations += heads * tokens**2 * (item + 4)
    cached = cache_bytes(lm, tokens + new) if new else 0
    return int(activations + cached + logits * config.vocab_size * 4 * TABLES)


def cache_bytes(lm: LanguageModel, tokens: int) -> int:
    """Bytes of the keys and values of a row of so many tokens; a sliding window keeps no more than itself."""
    # as transformers' own cache: without types of layers a window is that of all
    kinds = getattr(lm.text_config, "layer_types", None) or ["sliding_attention"] * lm.depth
    values = 0
    for layer, kind in zip(layer_configs(lm), kinds, strict=False):  # some list further layers behind
        heads = _heads(layer)
        kv_heads = (
            getattr(layer, "num_key_value_heads", None) or getattr(layer, "num_kv_heads", None) or heads
        )
        if getattr(layer, "multi_query", False) and not getattr(layer, "new_decoder_architecture", False):
            kv_heads = 1
        width = getattr(layer, "head_dim", None) or lm.width // heads
        window = getattr(layer, "sliding_window", None) or tokens
        values += (min(tokens, window) if kind == "sliding_attention" else tokens) * kv_heads * width
    return int(2 * values * lm.dtype.itemsize)


def layer_configs(lm: LanguageModel) -> list[Any]:
    """The config of each block: of some families heads and widths differ, and have no value of the model."""
    config = lm.text_config
    differ = getattr(config, "is_heterogeneous", False)  # earlier versions of transformers 5 have none
    return list(config.per_layer_config) if differ else [config] * lm.depth


def _heads(layer: Any) -> int:
    return getattr(layer, "num_attention_heads", None) or 1


def _inner(layer: Any, width: int) -> int:
    """Width of the feed-forward layer, which Gemma 3n lists for each block."""
    inner = getattr(layer, "intermediate_size", None) or 4 * width
    return max(inner) if isinstance(inner, list | tuple) else inner


def batch_bytes(lm: LanguageModel) -> int:
    """Bytes that a batch may take: `batch_memory_gb` of the model's spec, by default most of what its GPUs
    have free, or 4 GB where it has none."""
    if lm.spec.batch_memory_gb is not None:
        return int(lm.spec.batch_memory_gb * 1e9)
    free = [count for device in lm.devices if (count := free_bytes(device)) is not None]
    return int(SHARE * sum(free)) if free else WITHOUT_GPU


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a device's, or the CPU's, lack of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # of the CPU ("DefaultCPUAllocator: can't allocate memory"), MPS and others; CUDA's libraries
    phrases = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
