"""Read and write hidden states while a model runs. No other module registers a torch hook.

Every hook is set by a context manager that removes it on exit, after an exception too. The hidden state of
layer `l` is the output of decoder block `l`: the residual stream before the final norm.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lrt.errors import InvalidValue
from lrt.models.blocks import BlockModel
from lrt.models.decoder_cache import CACHE_ARGUMENTS, cached_length
from lrt.models.offload import fetched
from lrt.models.padding import positions_of

HEAD_ROWS = 2**14
"""Rows of an LM head that are converted to float32 at a time."""

Edit = Callable[[Tensor, Tensor], Tensor]
"""`(hidden [b, t, d], positions [b, t]) -> hidden' [b, t, d]`: a new tensor, same shape and dtype.

Positions are absolute, -1 on padding. Compute in float32 and cast back at the end."""


@runtime_checkable
class Intervention(Protocol):
    """An `Edit` that knows its layer."""

    @property
    def layer(self) -> int: ...

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor: ...


@runtime_checkable
class RowwiseEdit(Protocol):
    """An `Edit` whose rows differ (one strength each), which can be split like the batch."""

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor: ...

    def take(self, rows: slice) -> Edit:
        """The edit of these rows."""
        ...


def edit_of_rows(edit: Edit, rows: slice) -> Edit:
    """The edit of some rows of a batch. One that is no `RowwiseEdit` must treat all rows alike."""
    return edit.take(rows) if isinstance(edit, RowwiseEdit) else edit


@dataclass(frozen=True)
class AtLayer:
    """An edit as an `Intervention` on a layer."""

    layer: int
    edit: Edit

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        return self.edit(hidden, positions)

    def take(self, rows: slice) -> "AtLayer":
        """The intervention on these rows."""
        return AtLayer(self.layer, edit_of_rows(self.edit, rows))


def hidden_of(output: Any) -> Tensor:
    """The hidden state `[b, t, d]` in a block's output, which some families wrap in a tuple or list.

    Raises InvalidValue for another shape (several residual streams, as in Gemma 3n).
    """
    hidden = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        shape = list(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise InvalidValue(
            f"a decoder block returned {shape}, expected one residual stream [batch, tokens, width]. Choose "
            "a model of another family"
        )
    return hidden


def replace_hidden(output: Any, hidden: Tensor) -> Any:
    """A block's output with its hidden state replaced."""
    return type(output)((hidden, *output[1:])) if isinstance(output, tuple | list) else hidden


def apply_edit(edit: Edit, hidden: Tensor, positions: Tensor) -> Tensor:
    """`edit(hidden, positions)`. Raises ValueError where shape or dtype differ from those of `hidden`."""
    edited = edit(hidden, positions)
    if edited.shape != hidden.shape or edited.dtype != hidden.dtype:
        raise ValueError(
            f"an intervention returned {list(edited.shape)} {edited.dtype}, expected the shape and dtype of "
            f"its hidden state, {list(hidden.shape)} {hidden.dtype}"
        )
    return edited


@contextmanager
def capture(
    lm: BlockModel, layers: Sequence[int], columns: slice = slice(None)
) -> Iterator[dict[int, Tensor]]:
    """Collect hidden states of `layers` while the model runs, at some columns of its batch.

    Yields a dict `{layer: [b, t, d]}` that each forward pass fills anew: detached copies in the model's
    dtype. Hooks registered earlier apply first, so inside `steer` the states are the steered ones. Raises
    InvalidValue for a layer that is not a block's index.
    """
    indices = [lm.resolve_layer(layer, "layers") for layer in layers]
    states: dict[int, Tensor] = {}

    def read(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            # A copy: the next block may add to the residual stream in place.
            states[layer] = hidden_of(output)[:, columns].detach().clone()

        return hook

    with ExitStack() as undo:
        for layer in dict.fromkeys(indices):
            undo.callback(lm.blocks[layer].register_forward_hook(read(layer)).remove)
        yield states


@contextmanager
def steer(lm: BlockModel, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Replace block outputs by the results of interventions, in every forward pass.

    Works with a key/value cache and with transformers' own `generate`: positions come from each call's mask,
    position ids or cache. Interventions on one layer apply in order. Raises InvalidValue for a layer that is
    not a block's index, before any hook is registered.
    """
    layers = [lm.resolve_layer(each.layer, "intervention.layer") for each in interventions]
    positions: list[Tensor] = []

    def note_positions(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positions[:] = [_positions_of_call(args, kwargs)]

    def write(intervention: Intervention) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            hidden = hidden_of(output)
            edited = apply_edit(intervention, hidden, positions[0].to(hidden.device))
            return replace_hidden(output, edited)

        return hook

    with ExitStack() as undo:
        if interventions:
            handle = lm.stack.register_forward_pre_hook(note_positions, with_kwargs=True)
            undo.callback(handle.remove)
        for layer, intervention in zip(layers, interventions, strict=True):
            undo.callback(lm.blocks[layer].register_forward_hook(write(intervention)).remove)
        yield


def _positions_of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Absolute positions `[b, t]` of the tokens in one call of the module that runs the blocks."""
    inputs = args[0] if args else kwargs.get("input_ids")
    if inputs is None:
        inputs = kwargs["inputs_embeds"]
    batch, length = inputs.shape[:2]
    mask, position_ids = kwargs.get("attention_mask"), kwargs.get("position_ids")
    cache = next((kwargs[name] for name in CACHE_ARGUMENTS if kwargs.get(name) is not None), None)
    known = getattr(cache, "positions", None)
    if isinstance(known, Tensor):
        return known
    # The mask first: position ids do not mark padding.
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return positions_of(mask)[:, -length:]
    if position_ids is not None:
        return torch.as_tensor(position_ids).expand(batch, length)
    start = cached_length(cache) if cache is not None else 0
    return torch.arange(start, start + length, device=inputs.device).expand(batch, length)


class _Stop(Exception):
    pass


def hooked(lm: BlockModel) -> bool:
    """Whether a hook reads or writes the hidden states of a block now."""
    return any(block._forward_hooks for block in lm.blocks)


@contextmanager
def stop_after(lm: BlockModel, layer: int) -> Iterator[None]:
    """End the forward pass in the body after block `layer`; the body ends with it.

    Hooks run in order of registration, so register those that read this block before entering.
    """
    signal = _Stop()

    def hook(*_: Any) -> None:
        raise signal

    handle = lm.blocks[lm.resolve_layer(layer, "layer")].register_forward_hook(hook)
    try:
        yield
    except _Stop as caught:
        if caught is not signal:
            raise
    finally:
        handle.remove()


@contextmanager
def resume_from(lm: BlockModel, layer: int, hidden: Tensor) -> Iterator[None]:
    """Start forward passes after block `layer`, with `hidden [b, t, d]` as its output.

    Blocks 0 to `layer` are not computed. The model still builds masks and rotations for the blocks above
    from the call's tokens and mask. So this holds for every family whose blocks pass on nothing but the
    residual stream.
    """
    length = lm.block_output_length

    def wrap(state: Tensor) -> Any:
        return (state, *(None,) * (length - 1)) if length else state

    def skip(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return wrap(hidden_states)

    def resume(*_args: Any, **_kwargs: Any) -> Any:
        return wrap(hidden)

    with ExitStack() as undo:
        for index, block in enumerate(lm.blocks[: layer + 1]):
            undo.enter_context(_forward_as(block, resume if index == layer else skip))
        yield


@contextmanager
def _forward_as(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    # The attribute on the instance shadows the class's method; accelerate may have put one there.
    own = vars(block).get("forward")
    block.forward = forward
    try:
        yield
    finally:
        if own is None:
            del block.forward
        else:
            block.forward = own


@contextmanager
def float32_head(lm: BlockModel) -> Iterator[None]:
    """Compute the LM head in float32, whatever dtype the model runs in.

    bfloat16 logits between 8 and 16 are multiples of 1/16, and the effect of a weak vector is smaller. What
    a family does after its head (soft caps, scales) still applies. A quantised head stays as it is.
    """
    head = lm.model.get_output_embeddings()
    if head.weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return

    def recompute(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        with fetched(module):
            weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
            hidden = args[0].to(weight.device, torch.float32)
            # in parts, so that no second copy of the whole head is held
            parts = [nn.functional.linear(hidden, rows.float()) for rows in torch.split(weight, HEAD_ROWS)]
            logits = torch.cat(parts, dim=-1)
            return (logits if bias is None else logits + bias.float()).to(output.device)

    handle = head.register_forward_hook(recompute)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def head_at(lm: BlockModel, columns: Tensor | None) -> Iterator[None]:
    """Compute the LM head only at `columns [b, k]` of each row (at all columns, if None).

    transformers' own `logits_to_keep` takes no columns by row in older versions. What a family does after
    its head (soft caps, scales) still applies.
    """
    if columns is None:
        yield
        return

    def select(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = args
        index = columns.to(hidden.device)
        return (hidden.gather(1, index[..., None].expand(*index.shape, hidden.shape[-1])), *rest)

    handle = lm.model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
