"""Reading and writing hidden states while a model runs. No other module registers a torch hook.

Every function here is a context manager that undoes all it did, after an exception too. The hidden
state of layer `l` is the output of decoder block `l`: the residual stream before the final norm.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lrt.models.offload import fetched
from lrt.models.padding import positions_of

if TYPE_CHECKING:
    from lrt.models.language_model import LanguageModel

HEAD_ROWS = 2**14
"""Rows of an LM head that are held in float32 at once."""

Edit = Callable[[Tensor, Tensor], Tensor]
"""`(hidden [b, t, d], positions [b, t]) -> hidden' [b, t, d]`: a new tensor, same shape and dtype.

Positions are absolute, -1 on padding. Arithmetic belongs in float32, cast back at the end."""


@runtime_checkable
class Intervention(Protocol):
    """An `Edit` that knows its layer."""

    @property
    def layer(self) -> int: ...

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor: ...


def hidden_of(output: Any) -> Tensor:
    """The hidden state in a block's output, which some families wrap in a tuple.

    Raises ValueError where it is not `[b, t, d]` (several streams side by side, as in Gemma 3n).
    """
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        shape = list(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise ValueError(
            f"a decoder block returned {shape} where one residual stream [batch, tokens, width] "
            "was expected; this family is not supported"
        )
    return hidden


def replace_hidden(output: Any, hidden: Tensor) -> Any:
    """A block's output with another hidden state in it."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def apply_edit(edit: Edit, hidden: Tensor, positions: Tensor) -> Tensor:
    """`edit(hidden, positions)`, held to what `Edit` promises; ValueError otherwise."""
    edited = edit(hidden, positions)
    if edited.shape != hidden.shape or edited.dtype != hidden.dtype:
        raise ValueError(
            f"an intervention returned {list(edited.shape)} {edited.dtype} for a hidden state of "
            f"{list(hidden.shape)} {hidden.dtype}; shape and dtype must stay as they are"
        )
    return edited


@contextmanager
def capture(lm: "LanguageModel", layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect hidden states of `layers`; the dict fills as the model runs.

    Yields `{layer: [b, t, d]}`, detached copies in the model's dtype, of the latest forward pass.
    A state is seen as the hooks registered before left it: inside `steer`, the steered one.
    Raises ValueError for a layer that is not a block's index.
    """
    checked = [lm.resolve_layer(layer, "layers") for layer in layers]
    found: dict[int, Tensor] = {}

    def read(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            # A copy, since the next block may add to the stream in place.
            found[layer] = hidden_of(output).detach().clone()

        return hook

    with ExitStack() as undo:
        for layer in dict.fromkeys(checked):
            undo.callback(lm.blocks[layer].register_forward_hook(read(layer)).remove)
        yield found


@contextmanager
def steer(lm: "LanguageModel", interventions: Sequence[Intervention]) -> Iterator[None]:
    """Put each intervention's result in the place of its block's output, in every forward pass.

    Holds under a key/value cache, and for transformers' own `generate`: positions are read off
    each call's mask, position ids or cache. Interventions of one layer apply in order. Raises
    ValueError for a layer that is not a block's index, before anything is registered.
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
    """Absolute positions `[b, t]` of the tokens that a decoder stack is called with."""
    entering = args[0] if args else kwargs.get("input_ids")
    if entering is None:
        entering = kwargs["inputs_embeds"]
    batch, length = entering.shape[:2]
    mask, given = kwargs.get("attention_mask"), kwargs.get("position_ids")
    # The mask comes first: position ids say nothing of padding.
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return positions_of(mask)[:, -length:]
    if given is not None:
        return torch.as_tensor(given).expand(batch, length)
    cache = kwargs.get("past_key_values")
    start = cache.get_seq_length() if cache is not None else 0
    return torch.arange(start, start + length, device=entering.device).expand(batch, length)


class _Stop(Exception):
    pass


@contextmanager
def stop_after(lm: "LanguageModel", layer: int) -> Iterator[None]:
    """End the forward pass in the body after block `layer`, and with it the body.

    Enter it after the hooks that are to see that block, for they run in order of registration.
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
def resume_from(lm: "LanguageModel", layer: int, hidden: Tensor) -> Iterator[None]:
    """Let forward passes begin after block `layer`, whose output is given as `hidden [b, t, d]`.

    Blocks 0 to `layer` are not computed. The model still makes its own masks, rotations and so on
    for the blocks above, from the call's tokens and mask, so this holds for every family whose
    blocks hand on nothing but the residual stream.
    """
    length = lm.block_output_length

    def wrap(state: Tensor) -> Any:
        return (state, *(None,) * (length - 1)) if length else state

    def skip(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return wrap(hidden_states)

    def give(*_args: Any, **_kwargs: Any) -> Any:
        return wrap(hidden)

    with ExitStack() as undo:
        for index, block in enumerate(lm.blocks[: layer + 1]):
            undo.enter_context(_forward_as(block, give if index == layer else skip))
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
def float32_head(lm: "LanguageModel") -> Iterator[None]:
    """The LM head in float32, whatever dtype the model runs in: bfloat16 logits between 8 and 16 are
    multiples of 1/16, and what a weak vector does to an answer is less.

    What a family does after its head still applies. A head that is quantised is left as it is.
    """
    head = lm.model.get_output_embeddings()
    if head.weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return

    def again(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        with fetched(module):
            weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
            hidden = args[0].to(weight.device, torch.float32)
            # in parts: no second copy of the whole head
            parts = [nn.functional.linear(hidden, rows.float()) for rows in torch.split(weight, HEAD_ROWS)]
            logits = torch.cat(parts, dim=-1)
            return (logits if bias is None else logits + bias.float()).to(output.device)

    handle = head.register_forward_hook(again)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def head_at(lm: "LanguageModel", columns: Tensor | None) -> Iterator[None]:
    """Let the LM head see only `columns [b, k]` of each row (all, if None).

    At the head and not through transformers' `logits_to_keep`, which takes no columns by row in
    older versions; what a family does after its head (soft caps, scales) still applies.
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
