"""A language model as a numbered stack of blocks that can be read and written between any two."""

import inspect
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrt.models.blocks import find_blocks
from lrt.models.hooks import Intervention, capture, head_at, hidden_of, steer, stop_after
from lrt.models.offload import fetched
from lrt.models.padding import check_mask, last_columns, positions_of
from lrt.models.spec import ModelSpec

Keep = Literal["last"] | Tensor | None
"""Which columns of a token block to give logits of: each row's last token, a long tensor `[k]`
(the same in every row) or `[rows, k]`, or all."""


class LanguageModel:
    """A transformers causal language model, its tokenizer, and its decoder blocks by number.

    model      The transformers model; put into evaluation mode, its parameters without gradient.
    stack      The module in it that runs the blocks.
    blocks     The decoder blocks; layer `l` is block `l`, its state that block's output.
    depth      The number of blocks that the model has; where `blocks` holds fewer, the first ones were
               loaded alone, and it can be read up to there and not run to its end.
    width      The size of the residual stream.
    tokenizer  The transformers tokenizer (None where a caller works on token ids alone).

    All tensors that the methods return are detached and lie on the model's device; those that they
    take are moved there. Of a model that is spread over several devices (`ModelSpec.device_map`) this
    is the first; an edit sees a state on its block's own. Raises `NoBlocks` for a model without a
    recognisable stack.
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

    def __repr__(self) -> str:
        return f"LanguageModel({self.spec.name}: {self.depth} blocks x {self.width}, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where tokens go in and logits come out."""
        spread = getattr(self.model, "hf_device_map", {}).values()
        # What lies in the CPU's memory or on disk runs on the first device that is another.
        first = next((place for place in spread if place not in ("cpu", "disk")), None)
        if first is not None:
            return torch.device(first)
        return torch.device("cpu") if spread else torch.device(self.model.device)

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
        """Whether positions can be told; BLOOM and MPT read them off the mask."""
        return "position_ids" in inspect.signature(self.model.forward).parameters

    @cached_property
    def block_output_length(self) -> int:
        """The length of the tuple that a block returns, 0 where it is the bare hidden state."""
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
        """The block index of a config's layer: itself, or for a depth `f` in [0, 1) `floor(f L)`.

        setting  Where the value came from, for the message of the ValueError that an impossible
                 one raises (as `layers.source`).
        """
        return resolve_layer(layer, setting, self.depth, self.spec.name)

    def run(
        self,
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None = None,  # [b, cached + t]
        cache: Any = None,
        head: bool = True,
    ) -> Any:
        """One plain forward pass under whatever hooks are in force.

        The mask covers the cached tokens too; positions follow from it. Returns transformers' own
        output, of the whole model or (`head=False`) of the model below the LM head.
        """
        if head and len(self.blocks) < self.depth:
            raise ValueError(
                f"of {self.spec.name} the first {len(self.blocks)} of {self.depth} blocks were loaded, so it "
                "gives no logits; load it whole"
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
        """Outputs of the blocks `layers`, `{layer: [b, t, d]}` in the model's dtype.

        The pass ends after the deepest of them and never runs the LM head. On padding the values
        mean nothing. Raises ValueError for an empty list, a bad layer or a bad mask.
        """
        if not layers:
            raise ValueError("`layers` is empty; name at least one block to read")
        if attention_mask is not None:
            check_mask(attention_mask, tokens.shape)
        layers = [self.resolve_layer(layer, "layers") for layer in layers]
        if max(layers) >= len(self.blocks):
            raise ValueError(
                f"of {self.spec.name} the first {len(self.blocks)} of {self.depth} blocks were loaded; block "
                f"{max(layers)} is not among them"
            )
        with capture(self, layers) as found, stop_after(self, max(layers)):
            self.run(tokens, attention_mask, head=False)
        return {layer: hidden.to(self.device) for layer, hidden in found.items()}

    @torch.no_grad()
    def logits(
        self,
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None = None,  # [b, t]
        interventions: Sequence[Intervention] = (),
        keep: Keep = None,
    ) -> Tensor:
        """Next-token logits, float32 `[b, k, V]`, at the columns that `keep` names.

        Raises ValueError for a bad mask, an intervention's bad layer or a column out of range.
        """
        mask = attention_mask
        if mask is not None:
            check_mask(mask, tokens.shape)
        columns = columns_of(keep, torch.ones_like(tokens) if mask is None else mask)
        with steer(self, interventions), head_at(self, columns):
            return as_logits(self.run(tokens, mask))


def resolve_layer(layer: int | float, setting: str, depth: int, name: str) -> int:
    """`LanguageModel.resolve_layer` of a model of that depth and name."""
    allowed = f"{name} has {depth} blocks: allowed are 0 to {depth - 1}, or a fraction of the depth in [0, 1)"
    if isinstance(layer, float):
        if not 0 <= layer < 1:
            raise ValueError(f"{setting}={layer} is not a layer; {allowed}")
        # 0.29 * 100 is 28.999999999999996
        return min(math.floor(layer * depth + 1e-9), depth - 1)
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < depth:
        raise ValueError(f"{setting}={layer} is not a layer; {allowed}")
    return layer


def columns_of(keep: Keep, mask: Tensor) -> Tensor | None:
    """`Keep` as columns, long `[b, k]`, for a mask `[b, t]`; None for all of them.

    Raises ValueError for columns of another shape or outside the block.
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
