"""A language model whose decoder blocks are numbered, and whose hidden states can be read and edited."""

import inspect
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrt.errors import InvalidValue
from lrt.models.blocks import find_blocks
from lrt.models.hooks import Intervention, capture, head_at, hidden_of, steer, stop_after
from lrt.models.offload import fetched
from lrt.models.padding import check_mask, last_columns, positions_of
from lrt.models.spec import ModelSpec

Keep = Literal["last"] | Tensor | None
"""Columns of a token batch to return logits for: each row's last token, a long tensor `[k]` (the same in
every row) or `[rows, k]`, or None for all."""


class LanguageModel:
    """A transformers causal language model, its tokenizer, and its decoder blocks by number.

    model      The transformers model; put into evaluation mode, its parameters without gradient.
    stack      The module in it that runs the blocks.
    blocks     The decoder blocks. Layer `l` is block `l`; its hidden state is that block's output.
    depth      The number of blocks of the whole model. Where `blocks` holds fewer, only the first ones were
               loaded: their states can be read, but there are no logits.
    width      The size of the residual stream.
    tokenizer  The transformers tokenizer (None where a caller works on token ids alone).

    Methods move their tensors to the model's device and return detached tensors there. For a model spread
    over several devices (`ModelSpec.device_map`) that is the first one; an edit sees the hidden state on its
    block's device. Raises `NoBlocks` where the blocks cannot be identified.
    """

    def __init__(self, spec: ModelSpec, model: Any, tokenizer: Any = None, depth: int | None = None) -> None:
        self.spec = spec
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.stack: nn.Module
        self.blocks: list[nn.Module]
        self.stack, self.blocks = find_blocks(model)
        self.depth = depth or len(self.blocks)
        self.text_config: Any = model.config.get_text_config(decoder=True)
        self.width: int = self.text_config.hidden_size
        # of the memory that a batch may take; lowered where it was too much (`lrt.models.memory`)
        self.memory_factor = 1.0

    def __repr__(self) -> str:
        size = f"{self.depth} blocks x {self.width}"
        return f"LanguageModel({self.spec.name}: {size}, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        """The device of input tokens and logits."""
        spread = getattr(self.model, "hf_device_map", {}).values()
        # Blocks offloaded to the CPU's memory or to disk run on the first other device.
        first = next((place for place in spread if place not in ("cpu", "disk")), None)
        if first is not None:
            return torch.device(first)
        return torch.device("cpu") if spread else torch.device(self.model.device)

    @property
    def devices(self) -> set[torch.device]:
        """All devices that hold a part of the model."""
        spread = getattr(self.model, "hf_device_map", {}).values()
        return {self.device, *(torch.device(place) for place in spread if place != "disk")}

    @property
    def dtype(self) -> torch.dtype:
        dtype = self.model.dtype
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def embeddings(self) -> Tensor:
        """Input embedding matrix `[V, d]`, float32, on the CPU."""
        module = self.model.get_input_embeddings()
        with fetched(module, "cpu"):
            return torch.as_tensor(module.weight.detach()).float().cpu()

    @cached_property
    def takes_position_ids(self) -> bool:
        """Whether the model accepts position ids; BLOOM and MPT derive positions from the mask."""
        return "position_ids" in inspect.signature(self.model.forward).parameters

    @cached_property
    def block_output_length(self) -> int:
        """Length of the tuple that a block returns, 0 where it returns the bare hidden state."""
        lengths: list[int] = []

        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden_of(output)
            lengths.append(len(output) if isinstance(output, tuple) else 0)

        handle = self.blocks[0].register_forward_hook(hook)
        try:
            with torch.no_grad(), stop_after(self, 0):
                self.run(torch.zeros(1, 1, dtype=torch.long), head=False)
        finally:
            handle.remove()
        return lengths[0]

    def resolve_layer(self, layer: int | float, setting: str) -> int:
        """The block index of a layer: the index itself, or `floor(f L)` for a relative depth `f` in [0, 1).

        setting  The setting the value comes from (as `layers.source`), for the message.

        Raises InvalidValue for a layer that the model does not have.
        """
        return resolve_layer(layer, setting, self.depth, self.spec.name)

    def run(
        self,
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None = None,  # [b, cached + t]
        cache: Any = None,
        head: bool = True,
    ) -> Any:
        """One forward pass, with whatever hooks are registered.

        The mask covers the cached tokens too; positions follow from it. Returns the transformers output, of
        the whole model or (`head=False`) of the model without its LM head. Raises ValueError for logits of a
        model of which only the first blocks were loaded.
        """
        if head and len(self.blocks) < self.depth:
            raise ValueError(
                f"{self.spec.name} has no logits: only the first {len(self.blocks)} of its {self.depth} "
                "blocks were loaded; load it with blocks=None"
            )
        inputs: dict[str, Any] = {
            "input_ids": tokens.to(self.device),
            "use_cache": cache is not None,
        }
        if cache is not None:
            inputs["past_key_values"] = cache
        if attention_mask is not None:
            mask = attention_mask.to(self.device)
            inputs["attention_mask"] = mask
            if self.takes_position_ids:
                inputs["position_ids"] = positions_of(mask)[:, -tokens.shape[1] :].clamp(min=0)
        return (self.model if head else self.model.base_model)(**inputs)

    @torch.no_grad()
    def hidden_states(
        self,
        tokens: Tensor,  # [b, t] long
        layers: Sequence[int],
        attention_mask: Tensor | None = None,  # [b, t]
    ) -> dict[int, Tensor]:
        """Hidden states of `layers`, `{layer: [b, t, d]}` in the model's dtype.

        The forward pass ends after the deepest of them and never runs the LM head. Values on padding are
        meaningless. Raises InvalidValue for a layer that the model does not have, and ValueError for no
        layers, a layer that was not loaded or a bad mask.
        """
        if not layers:
            raise ValueError("`layers` is empty; name at least one block to read")
        if attention_mask is not None:
            check_mask(attention_mask, tokens.shape)
        layers = [self.resolve_layer(layer, "layers") for layer in layers]
        if max(layers) >= len(self.blocks):
            raise ValueError(
                f"layer {max(layers)} of {self.spec.name} was not loaded: only the first {len(self.blocks)} "
                f"of its {self.depth} blocks were"
            )
        with capture(self, layers) as states, stop_after(self, max(layers)):
            self.run(tokens, attention_mask, head=False)
        return {layer: hidden.to(self.device) for layer, hidden in states.items()}

    @torch.no_grad()
    def logits(
        self,
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None = None,  # [b, t]
        interventions: Sequence[Intervention] = (),
        keep: Keep = None,
    ) -> Tensor:
        """Next-token logits, float32 `[b, k, V]`, at the columns `keep`.

        Raises InvalidValue for an intervention on a layer that the model does not have, and ValueError for a
        bad mask or a column out of range.
        """
        mask = attention_mask
        if mask is not None:
            check_mask(mask, tokens.shape)
        columns = columns_of(keep, torch.ones_like(tokens) if mask is None else mask)
        with steer(self, interventions), head_at(self, columns):
            return as_logits(self.run(tokens, mask))


def resolve_layer(layer: int | float, setting: str, depth: int, name: str) -> int:
    """`LanguageModel.resolve_layer` for a model of this depth and name, which need not be loaded."""
    wrong = (
        f"{setting}={layer}: {name} has {depth} blocks; allowed: 0 to {depth - 1}, or a relative depth in "
        "[0, 1)"
    )
    if isinstance(layer, float):
        if not 0 <= layer < 1:
            raise InvalidValue(wrong)
        # rounding: 0.29 * 100 is 28.999999999999996
        return min(math.floor(layer * depth + 1e-9), depth - 1)
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < depth:
        raise InvalidValue(wrong)
    return layer


def columns_of(keep: Keep, mask: Tensor) -> Tensor | None:
    """`Keep` as columns, long `[b, k]`, for a mask `[b, t]`; None for all columns.

    Raises ValueError for another shape or columns out of range.
    """
    rows, length = mask.shape
    if keep is None:
        return None
    if isinstance(keep, str):
        if keep != "last":
            raise ValueError(f"keep={keep!r}; allowed: 'last', a tensor of columns, None")
        return last_columns(mask)[:, None]
    columns = keep.expand(rows, -1) if keep.ndim == 1 else keep
    if columns.ndim != 2 or len(columns) != rows:
        raise ValueError(f"columns to keep have shape {list(keep.shape)}; allowed: [k] or [{rows}, k]")
    if columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < length:
        raise ValueError(
            f"columns to keep lie in {int(columns.min())}..{int(columns.max())}; allowed: 0..{length - 1}"
        )
    return columns


def as_logits(output: Any) -> Tensor:
    """The logits of a transformers output, float32 `[b, k, V]`."""
    logits = output.logits
    assert isinstance(logits, Tensor)
    return logits.float()
