"""Copies of a model that have more biases than it: all zero, so that they compute the same.

A bias that is added to a block's output can hold a constant which a hook would add. Few architectures have
such a bias in every checkpoint; more have it as an option of their config; Llama's, which has both options
(attention and MLP), can hold the weights of others. A copy shares the weights, so that it costs no memory.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrt.errors import InvalidValue
from lrt.models.blocks import find_blocks
from lrt.models.capabilities import raised_here

log = logging.getLogger(__name__)

SHARD = "5GB"
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Settings that limit how far a token sees, which no short text would show."""


@dataclass(frozen=True)
class BiasedCopy:
    """A model, and what its config says otherwise than the original's: "mlp_bias=True"; "" for itself."""

    model: Any
    change: str


def biased_copies(model: Any) -> Iterator[BiasedCopy]:
    """The model itself, and copies of it with further biases: with options of its config the other way round,
    each alone and all together, and of Llama's architecture. Copies that would lack a weight, or have one too
    many, are skipped. Whether a copy computes the same is for the caller to try.
    """
    yield BiasedCopy(model, "")
    settings = vars(model.config.get_text_config(decoder=True))
    options = [name for name, value in settings.items() if "bias" in name and isinstance(value, bool)]
    choices = [{name: not settings[name]} for name in options]
    if len(options) > 1:
        choices.append(dict.fromkeys(options, True))
    for choice in choices:
        change = ", ".join(f"{name}={value}" for name, value in choice.items())
        yield from _built(model, change, partial(_with_options, model, choice))
    change = "model_type='llama', attention_bias=True, mlp_bias=True"
    yield from _built(model, change, partial(_as_llama, model))


def biases_of_block(model: Any, layer: int, width: int) -> list[str]:
    """Names of a block's biases that are as wide as the residual stream, the last defined first. Experts have
    one row each, `[experts, width]`."""
    _, blocks = find_blocks(model)
    block = blocks[layer]
    (prefix,) = (name for name, module in model.named_modules() if module is block)
    names = [
        name
        for name, bias in block.named_parameters()
        if name.endswith("bias") and bias.ndim in (1, 2) and bias.shape[-1] == width
    ]
    return [f"{prefix}.{name}" for name in reversed(names)]


def save_copy(model: Any, replaced: Mapping[str, Tensor], tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint of `save_pretrained` with some parameters replaced, and the tokenizer (if any)."""
    model.save_pretrained(folder, state_dict=model.state_dict() | dict(replaced), max_shard_size=SHARD)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def reload(folder: Path, like: Any) -> Any:
    """The checkpoint as transformers alone loads it: in the dtype, on the device and with the attention
    kernel of the model `like`."""
    from transformers import AutoModelForCausalLM

    kernel = like.config.get_text_config(decoder=True)._attn_implementation
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=like.dtype, attn_implementation=kernel, use_safetensors=True, trust_remote_code=False
    )
    return model.to(like.device).eval()


def _built(model: Any, change: str, build: Callable[[], tuple[Any, Any]]) -> Iterator[BiasedCopy]:
    """The model of a class and config with the weights of `model` and zero biases; none where they do not
    fit, and where the modelling code refuses the config."""
    try:
        kind, config = build()
        with torch.device("meta"):
            other = kind(config)
    except Exception as error:  # any kind: it depends on the family
        if raised_here(error):
            raise
        log.info("No copy of %s with %s: %r", type(model).__name__, change, error)
        return
    state, wanted = model.state_dict(), other.state_dict()
    added = wanted.keys() - state.keys()
    if state.keys() - wanted.keys() or not added or any(not name.endswith("bias") for name in added):
        return
    if any(wanted[name].shape != weight.shape for name, weight in state.items()):
        return
    zeros = {name: torch.zeros_like(wanted[name], device=model.device, dtype=model.dtype) for name in added}
    other.load_state_dict(state | zeros, assign=True)
    # such as rotary frequencies, which no checkpoint holds
    buffers = dict(model.named_buffers())
    for name, buffer in list(other.named_buffers()):
        if buffer.is_meta:
            if name not in buffers:
                return
            owner, _, leaf = name.rpartition(".")
            other.get_submodule(owner).register_buffer(leaf, buffers[name], persistent=False)
    other.tie_weights()
    other.generation_config = model.generation_config
    yield BiasedCopy(other.eval().requires_grad_(False), change)


def _with_options(model: Any, choice: Mapping[str, bool]) -> tuple[type[nn.Module], Any]:
    config = copy.deepcopy(model.config)
    for name, value in choice.items():
        setattr(config.get_text_config(decoder=True), name, value)
    checked = type(config).from_dict(config.to_dict())  # some options go together, or the class refuses them
    checked._attn_implementation = config._attn_implementation
    return type(model), checked


def _as_llama(model: Any) -> tuple[type[nn.Module], Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = model.config.to_dict()
    if windows := [name for name in WINDOWS if settings.get(name) is not None]:
        raise InvalidValue(f"a Llama has no {windows[0]}")
    known = LlamaConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
    shared = {name: value for name, value in settings.items() if name in known}
    config = LlamaConfig(**shared | {"attention_bias": True, "mlp_bias": True})
    config._attn_implementation = model.config._attn_implementation
    return LlamaForCausalLM, config
