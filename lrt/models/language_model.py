"""A language model whose decoder blocks are numbered, and whose hidden states can be read and edited."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrt.errors import InvalidValue
from lrt.models.blocks import find_blocks
from lrt.models.capabilities import hides_padding
from lrt.models.continuation import continuation
from lrt.models.decoder_cache import CACHE_ARGUMENTS, counts_tokens
from lrt.models.decoding import NonFiniteLogits
from lrt.models.hardware import device_name
from lrt.models.hooks import (
    AtLayer,
    Intervention,
    capture,
    edit_of_rows,
    head_at,
    hidden_of,
    steer,
    stop_after,
)
from lrt.models.offload import fetched
from lrt.models.padding import check_mask, equal_length_parts, last_columns, positions_of
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
    answers    What `lrt.models.capabilities` has found out about the model so far, by question.

    Methods move their tensors to the model's device and return detached tensors there. For a model spread
    over several devices (`ModelSpec.device_map`) that is the first one; an edit sees the hidden state on its
    block's device. Raises `NoBlocks` where the blocks cannot be identified.
    """

    def __init__(self, spec: ModelSpec, model: Any, tokenizer: Any = None) -> None:
        self.spec = spec
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.stack: nn.Module
        self.blocks: list[nn.Module]
        self.stack, blocks = find_blocks(model)
        self.blocks = list(blocks)
        self.text_config: Any = model.config.get_text_config(decoder=True)
        self.depth: int = self.text_config.num_hidden_layers
        self.width: int = self.text_config.hidden_size
        self.answers: dict[str, bool] = {}
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
    def hardware(self) -> str:
        """Devices and attention kernel: with others the same weights give other last bits."""
        names = sorted({device_name(device) for device in self.devices})
        return f"{', '.join(names)}, attention {self.text_config._attn_implementation}"

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
    def cache_argument(self) -> str:
        """The name under which the model takes a cache."""
        names = inspect.signature(self.model.forward).parameters
        return next((name for name in CACHE_ARGUMENTS if name in names), CACHE_ARGUMENTS[0])

    @cached_property
    def hides_padding(self) -> bool:
        """Whether a padded text has the states of the text alone; otherwise texts are batched by length."""
        return hides_padding(self)

    def batches(
        self, tokens: Tensor, attention_mask: Tensor | None
    ) -> Iterator[tuple[slice, slice, Tensor, Tensor | None]]:
        """A batch as the model can run it: rows, columns, tokens `[b, t]` and mask of each part.

        One part, unless the model does not hide padding: then one for each run of rows of equal length, and
        without padding or mask.
        """
        if attention_mask is None or self.hides_padding:
            yield slice(0, len(tokens)), slice(0, tokens.shape[1]), tokens, attention_mask
            return
        for rows, columns in equal_length_parts(attention_mask):
            yield rows, columns, tokens[rows, columns], None

    @cached_property
    def block_output_length(self) -> int:
        """Length of the tuple that a block returns, 0 where it returns the bare hidden state."""
        lengths: list[int] = []

        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden_of(output)
            lengths.append(len(output) if isinstance(output, tuple | list) else 0)

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

    def readable_layers(self, layers: Sequence[int]) -> list[int]:
        """The block indices of layers whose states are read.

        Raises InvalidValue for a layer that the model does not have, and ValueError for no layers or one that
        was not loaded.
        """
        if not layers:
            raise ValueError("`layers` is empty; name at least one block to read")
        indices = [self.resolve_layer(layer, "layers") for layer in layers]
        if max(indices) >= len(self.blocks):
            raise ValueError(
                f"layer {max(indices)} of {self.spec.name} was not loaded: only the first {len(self.blocks)} "
                f"of its {self.depth} blocks were"
            )
        return indices

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
        if head:
            self._check_whole()
        inputs: dict[str, Any] = {
            "input_ids": tokens.to(self.device),
            "use_cache": cache is not None,
        }
        if cache is not None:
            inputs[self.cache_argument] = cache
        if attention_mask is not None:
            mask = attention_mask.to(self.device)
            positions = positions_of(mask)[:, -tokens.shape[1] :]
            if cache is not None and not counts_tokens(cache):
                # Such a model masks the new tokens alone, and hooks could not tell their positions from that.
                mask, cache.positions = mask[:, -tokens.shape[1] :], positions
            inputs["attention_mask"] = mask
            if self.takes_position_ids:
                inputs["position_ids"] = positions.clamp(min=0)
        return (self.model if head else self.model.base_model)(**inputs)

    def generate(self, prompt: str, max_new_tokens: int = 40) -> str:
        """What the model writes after a prompt, greedily, by transformers' own `generate`.

        The prompt is not repeated, and no special token is shown. `lrt.steering.steer` around the call steers
        it. A checkpoint's own settings of `generate` hold, those of sampling apart; `model.generate` takes
        any others.

        Raises InvalidValue for a prompt without tokens and `max_new_tokens` below 1, ValueError for a model
        of which only the first blocks were loaded.
        """
        self._check_whole()
        return continuation(self.model, self.tokenizer, self.device, prompt, max_new_tokens)

    def _check_whole(self) -> None:
        if len(self.blocks) < self.depth:
            raise ValueError(
                f"{self.spec.name} has no logits: only the first {len(self.blocks)} of its {self.depth} "
                "blocks were loaded; load it with blocks=None"
            )

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
        layers = self.readable_layers(layers)
        if attention_mask is not None:
            check_mask(attention_mask, tokens.shape)
        parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for _, columns, part, mask in self.batches(tokens, attention_mask):
            with capture(self, layers) as states, stop_after(self, max(layers)):
                self.run(part, mask, head=False)
            for layer in parts:
                parts[layer].append(_between_padding(states[layer].to(self.device), columns, tokens.shape[1]))
        return {layer: _joined(each) for layer, each in parts.items()}

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
        bad mask or a column out of range. Raises `NonFiniteLogits` where a logit is NaN.
        """
        if attention_mask is not None:
            check_mask(attention_mask, tokens.shape)
        wanted = columns_of(keep, torch.ones_like(tokens) if attention_mask is None else attention_mask)

        def hooks(rows: slice, _columns: slice) -> AbstractContextManager[None]:
            if rows == slice(0, len(tokens)):
                return steer(self, interventions)
            some = [edit_of_rows(each, rows) for each in interventions]
            return steer(
                self, [AtLayer(old.layer, new) for old, new in zip(interventions, some, strict=True)]
            )

        return self.logits_under(hooks, tokens, attention_mask, wanted)

    def logits_under(
        self,
        hooks: Callable[[slice, slice], AbstractContextManager[None]],
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None,  # [b, t]
        wanted: Tensor | None,  # [b, k]
        cache: Any = None,
    ) -> Tensor:
        """Logits at the columns `wanted` (all, if None), of parts that the model can run.

        hooks  From a part's rows and columns, what to set while it runs.

        Raises `NonFiniteLogits` where a logit is NaN.
        """
        logits: list[Tensor] = []
        for rows, columns, part, mask in self.batches(tokens, attention_mask):
            at = None
            if wanted is not None:
                at = (wanted[rows] - columns.start).clamp(0, columns.stop - columns.start - 1)
            with hooks(rows, columns), head_at(self, at):
                new = as_logits(self.run(part, mask, cache))
            logits.append(new if wanted is not None else _between_padding(new, columns, tokens.shape[1]))
        joined = _joined(logits)
        if bool(joined.isnan().any()):
            raise NonFiniteLogits.of(f"{self.spec.name} ({self.dtype})")
        return joined


def resolve_layer(layer: int | float, setting: str, depth: int, name: str) -> int:
    """`LanguageModel.resolve_layer` for a model of this depth and name, which need not be loaded."""
    wrong = (
        f"{setting}={layer}: {name} has {depth} blocks; allowed: 0 to {depth - 1}, or a relative depth in "
        "[0, 1)"
    )
    value: object = layer  # numpy's numbers too
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidValue(wrong)
    if isinstance(value, Integral):
        if not 0 <= (block := int(value)) < depth:
            raise InvalidValue(wrong)
        return block
    if not 0 <= (share := float(value)) < 1:
        raise InvalidValue(wrong)
    # rounding: 0.29 * 100 is 28.999999999999996
    return min(math.floor(share * depth + 1e-9), depth - 1)


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


def _between_padding(part: Tensor, columns: slice, length: int) -> Tensor:
    """A tensor `[b, k, d]` of a part's columns as `[b, length, d]`, with zeros on padding."""
    if columns == slice(0, length):
        return part
    return nn.functional.pad(part, (0, 0, columns.start, length - columns.stop))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts of a batch in one tensor; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def as_logits(output: Any) -> Tensor:
    """The logits of a transformers output, float32 `[b, k, V]`."""
    logits = output.logits
    assert isinstance(logits, Tensor)
    return logits.float()
