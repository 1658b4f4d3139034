"""What a model's architecture allows, found by running the loaded model on a few tokens.

Families differ in what they do with padding, in what their blocks read beside the residual stream, and in
their caches. No list of families could be complete. So each question is a pair of short passes that must
agree, and the answer is kept on the model.
"""

import logging
import traceback
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from lrt.errors import InvalidValue, UserError
from lrt.models.blocks import BlockModel
from lrt.models.decoder_cache import empty_cache, put_below
from lrt.models.hooks import capture, resume_from, stop_after
from lrt.models.padding import pad
from lrt.models.spec import ModelSpec

log = logging.getLogger(__name__)

LENGTH = 7
"""Tokens of a trial text."""
GAP = 4
"""Trial texts that make the longest ending after a shared beginning."""
STEPS = 2
"""Trial tokens that are decoded with a cache."""
PADDING = "hides padding"
"""The name of that question among a model's answers."""


class RunnableModel(BlockModel, Protocol):
    """What the questions need of a model; see `LanguageModel`."""

    spec: ModelSpec
    width: int
    answers: dict[str, bool]

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def hides_padding(self) -> bool: ...

    def run(
        self, tokens: Tensor, attention_mask: Tensor | None = None, cache: Any = None, head: bool = True
    ) -> Any: ...


class FamilyNotSupported(InvalidValue):
    """A model whose states cannot be read as one causal residual stream."""


@torch.no_grad()
def check_family(lm: RunnableModel) -> None:
    """Run the loaded blocks on a short text, and find out what the model does with padding.

    Raises `FamilyNotSupported` where a plain pass fails, a block is not run or does not return one residual
    stream `[batch, tokens, width]`, or a token's state depends on later tokens.
    """
    text = trial_texts(lm, 1)
    wrong = f"{lm.spec.name} ({type(lm.model).__name__}) is not supported: "
    try:
        alone, longer = _alone_and_longer(lm, text)
    except (RuntimeError, IndexError, KeyError, TypeError, AttributeError, ValueError) as cause:
        if isinstance(cause, torch.OutOfMemoryError):
            raise
        failed = f"a pass over {LENGTH} tokens failed ({cause!r}). Choose a model of another family"
        detail = cause if isinstance(cause, InvalidValue) else failed
        raise FamilyNotSupported(f"{wrong}{detail}") from cause
    if not _close(longer[:, :, :LENGTH], alone, lm.dtype):
        raise FamilyNotSupported(
            f"{wrong}the state of a token depends on the tokens after it, so it is no causal language model. "
            "Choose a decoder (for an encoder's weights, one with is_decoder=true in its config)"
        )
    # found out now, before any hook is set, and from the same passes
    _kept(lm, PADDING, lambda: _hides_padding(lm, text, alone, longer))


@torch.no_grad()
def hides_padding(lm: RunnableModel) -> bool:
    """Whether a text has the same states padded on the left, under a mask, as alone without one."""
    text = trial_texts(lm, 1)
    return _kept(lm, PADDING, lambda: _hides_padding(lm, text, *_alone_and_longer(lm, text)))


def _alone_and_longer(lm: RunnableModel, text: Tensor) -> tuple[Tensor, Tensor]:
    """States of a text, and of the text with more tokens after it."""
    return _states(lm, text), _states(lm, torch.cat([text, text[:, :3]], dim=1))


def _hides_padding(lm: RunnableModel, text: Tensor, alone: Tensor, longer: Tensor) -> bool:
    padded, mask = pad([[*text[0].flip(0)[:3].tolist(), *text[0].tolist()]])
    mask[:, :3] = 0
    # the rounding of this model in this dtype: in a causal one, tokens after a text change nothing else
    noise = _worst_block(longer[:, :, :LENGTH], alone)

    def same() -> bool:
        error = _worst_block(_states(lm, padded, mask)[:, :, 3:], alone)
        return bool(error <= max(_rounding(lm.dtype), 4 * noise))

    return agrees(same, lm, "padding changes its states, so texts are batched by length")


@torch.no_grad()
def resumes(lm: RunnableModel, layer: int) -> bool:
    """Whether the blocks above `layer` give the model's logits from that block's output alone."""

    def same() -> bool:
        text = trial_texts(lm, 2)
        mask = torch.ones_like(text) if lm.hides_padding else None
        with capture(lm, [layer]) as states:
            whole = lm.run(text, mask).logits
        with resume_from(lm, layer, states[layer].to(lm.device)):
            return _close(lm.run(text, mask).logits, whole, lm.dtype)

    question = f"blocks above {layer} read more than its output, so every steered pass runs all blocks"
    return _kept(lm, f"resumes {layer}", lambda: agrees(same, lm, question))


@torch.no_grad()
def decodes(lm: RunnableModel, layer: int) -> bool:
    """Whether decoding with a cache, filled up to `layer` once per item, gives the logits of whole passes."""

    def same() -> bool:
        items, rows = trial_texts(lm, 2), torch.tensor([1, 0, 1], device=lm.device)
        below, cache = empty_cache(lm), empty_cache(lm)
        with capture(lm, [layer]) as states, stop_after(lm, layer):
            lm.run(items, torch.ones_like(items), below, head=False)
        hidden = states[layer].to(lm.device)[rows]

        def step(new: Tensor, mask: Tensor) -> Tensor:
            if new.shape != mask.shape:
                return _last(lm, new, mask, cache)
            with resume_from(lm, layer, hidden):
                logits = _last(lm, new, mask, cache)
            put_below(cache, below, rows, layer)
            return logits

        return decodes_alike(step, lambda text, mask: _last(lm, text, mask), items[rows], lm.dtype)

    what = "its cache cannot be filled in two parts, so each new token runs a whole pass"
    return _kept(lm, f"decodes {layer}", lambda: agrees(same, lm, what))


@torch.no_grad()
def extends(lm: RunnableModel, layer: int) -> bool:
    """Whether texts can go on from the cache of a beginning: with the states of whole passes, up to `layer`.

    Beginnings and endings are padded on the left, so there is padding between them: as much as makes a
    difference, in half precision too, where distances are counted in columns.
    """

    def same() -> bool:
        one, other, *more = trial_texts(lm, GAP + 2).tolist()
        ending = [token for text in more for token in text]
        whole = [one, other, [*other[:5], other[6]], [*other[:5], *ending]]
        rows = torch.tensor([0, 1, 1, 1])
        below, cache = empty_cache(lm), empty_cache(lm)
        tokens, mask = pad([one[:3], other[:5]])
        with stop_after(lm, layer):
            lm.run(tokens, mask, below, head=False)
        put_below(cache, below, rows.to(lm.device), layer)
        tokens, endings = pad([one[3:], other[5:], other[6:], ending])

        def last(tokens: Tensor, mask: Tensor | None, cache: Any = None) -> Tensor:  # [1, b, 1, d]
            with capture(lm, [layer], slice(-1, None)) as states, stop_after(lm, layer):
                lm.run(tokens, mask, cache, head=False)
            return states[layer].float().nan_to_num(0, 0, 0).cpu()[None]

        alone = torch.cat([last(torch.tensor([text]), None) for text in whole], dim=1)
        noise = _worst_block(last(*pad(whole)), alone)
        error = _worst_block(last(tokens, torch.cat([mask[rows], endings], dim=1), cache), alone)
        return bool(error <= max(_rounding(lm.dtype), 4 * noise))

    what = "texts cannot go on from the cache of a shared beginning, so each text runs whole"
    return lm.hides_padding and _kept(lm, f"extends {layer}", lambda: agrees(same, lm, what))


def decodes_alike(
    step: Callable[[Tensor, Tensor], Tensor],
    whole: Callable[[Tensor, Tensor], Tensor],
    text: Tensor,  # [r, t] long
    dtype: torch.dtype,
) -> bool:
    """Whether a prompt and a few tokens one by one have the logits of whole passes.

    step   From the new tokens and the mask of all tokens so far, the last token's logits `[r, V]`.
    whole  From all tokens and their mask, the same.
    """
    new = text
    for _ in range(STEPS + 1):
        mask = torch.ones_like(text)
        if not _close(step(new, mask), whole(text, mask), dtype):
            return False
        new = text[:, 1:2].flip(0)
        text = torch.cat([text, new], dim=1)
    return True


def _last(lm: RunnableModel, tokens: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
    logits = lm.run(tokens, mask, cache).logits
    assert isinstance(logits, Tensor)
    return logits[:, -1]


def trial_texts(lm: RunnableModel, count: int) -> Tensor:  # [count, LENGTH]
    """Texts of different tokens from the middle of the vocabulary, away from special ones."""
    size = int(lm.model.get_input_embeddings().weight.shape[0])
    ids = (size // 2 + torch.arange(count * LENGTH)) % size
    return ids.view(count, LENGTH).to(lm.device)


def _states(lm: RunnableModel, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """States of every loaded block, float32 `[blocks, b, t, d]`, on the CPU; 0 where not finite."""
    layers = range(len(lm.blocks))
    with capture(lm, layers) as states, stop_after(lm, layers[-1]):
        lm.run(tokens, mask, head=False)
    for layer in layers:
        shape = list(states[layer].shape) if layer in states else None
        if shape != [*tokens.shape, lm.width]:
            fault = "is not run for text" if shape is None else f"returns {shape}"
            raise InvalidValue(
                f"decoder block {layer} {fault}; expected one residual stream {[*tokens.shape, lm.width]}. "
                "Choose a model of another family"
            )
    return torch.stack([states[layer].float().nan_to_num(0, 0, 0).cpu() for layer in layers])


def _errors(actual: Tensor, expected: Tensor) -> Tensor:
    """Relative error of each vector."""
    length = torch.linalg.vector_norm(expected, dim=-1)
    errors: Tensor = torch.linalg.vector_norm(actual - expected, dim=-1) / length.clamp(min=1e-30)
    return errors


def _rounding(dtype: torch.dtype) -> float:
    """Relative error that rounding alone may leave in a state."""
    return float(torch.finfo(dtype).eps ** 0.5 / 4)


def _worst_block(actual: Tensor, expected: Tensor) -> float:  # [blocks, b, t, d]
    """The largest of the blocks' errors, each the median over its tokens.

    Padding may enter at an upper block alone. One token of a mixture of experts may go to another expert.
    """
    return float(_errors(actual, expected).flatten(1).median(dim=1).values.max())


def _close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether vectors agree but for rounding; a state of other tokens is off by about its own length."""
    actual, expected = (each.float().nan_to_num(0, 0, 0) for each in (actual, expected))
    actual, expected = (each - each.mean(dim=-1, keepdim=True) for each in (actual, expected))
    return bool(_errors(actual, expected).max() <= torch.finfo(dtype).eps ** 0.25)


def _kept(lm: RunnableModel, question: str, answer: Callable[[], bool]) -> bool:
    if question not in lm.answers:
        lm.answers[question] = answer()
    return lm.answers[question]


def agrees(same: Callable[[], bool], lm: RunnableModel, otherwise: str) -> bool:
    """Whether two ways of computing agree, or False where the modelling code raises because of one."""
    cause = ""
    try:
        holds = same()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # any kind: it depends on the family
        if raised_here(error):
            raise
        holds, cause = False, f" ({error!r})"
    if not holds:
        log.info("%s (%s): %s%s", lm.spec.name, type(lm.model).__name__, otherwise, cause)
    return holds


def raised_here(error: Exception) -> bool:
    """Whether an error comes from this package and not from code that it called: then it is a fault."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("lrt.") and not isinstance(error, UserError)
