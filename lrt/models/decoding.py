"""Token by token: the loop that decodes continuations."""

from collections.abc import Callable

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.models.sampling import Sampling


class NonFiniteLogits(InvalidValue):
    """Logits that are NaN: hidden states left the range of the model's dtype."""

    @classmethod
    def of(cls, model: str) -> "NonFiniteLogits":
        """The error for a model of that name."""
        return cls(
            f"the logits of {model} are NaN: hidden states left the range of its dtype. Use smaller "
            "strengths, or run it in bfloat16 or float32"
        )


@torch.no_grad()
def decode(
    step: Callable[[Tensor | None], Tensor],
    items: Tensor,  # [r] long, the item of each row
    max_new_tokens: int,
    eos_ids: tuple[int, ...] = (),
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
    vocabulary: int | None = None,
    model: str = "the model",
) -> Tensor:
    """Continuations of prompts, long `[r, max_new_tokens]`. Greedy without `sampling`.

    step        Takes the newest tokens `[r, 1]` (None at first), and returns the next one's logits `[r, V]`.
    eos_ids     A row ends with one of them, and is then filled with the first.
    progress    Called after each token with the number of rows.
    vocabulary  Only ids below it are generated; by default all `V`.
    model       Its name, for the message.

    Raises `NonFiniteLogits` where a logit is NaN.
    """
    logits = step(None)
    eos = torch.tensor(eos_ids, dtype=torch.long, device=logits.device)
    fill = eos_ids[0] if eos_ids else 0
    new = torch.full((len(items), max_new_tokens), fill, device=logits.device)
    ended = torch.zeros(len(items), dtype=torch.bool, device=logits.device)
    draws = None if sampling is None else sampling.draws(items.to(logits.device))
    broken = torch.zeros((), dtype=torch.bool, device=logits.device)
    for at in range(max_new_tokens):
        broken |= logits.isnan().any()
        logits = logits[:, :vocabulary]
        token = logits.argmax(dim=-1) if draws is None else draws.tokens(logits, at)
        new[:, at] = torch.where(ended, new[:, at], token)
        ended |= torch.isin(token, eos)
        if progress is not None:
            progress(len(items))
        done, failed = torch.stack([ended.all(), broken]).tolist()  # one wait for the device
        if failed:
            raise NonFiniteLogits.of(model)
        if at + 1 == max_new_tokens or done:
            break
        logits = step(new[:, at : at + 1])
    return new
