"""Token by token: the loop that decodes continuations, and its sampling."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.errors import InvalidValue


class NonFiniteLogits(InvalidValue):
    """Logits that are NaN: hidden states left the range of the model's dtype."""

    @classmethod
    def of(cls, model: str) -> "NonFiniteLogits":
        """The error for a model of that name."""
        return cls(
            f"the logits of {model} are NaN: hidden states left the range of its dtype. Use smaller "
            "strengths, or run it in bfloat16 or float32"
        )


@dataclass(frozen=True)
class Sampling:
    """Sampling in which an item gets the same random draws in every condition (common random numbers).

    Each item has its own stream of Gumbel noise. It is added to `logits / temperature`, and the largest value
    is the next token. So two conditions with equal logits give the same text, and differences between
    conditions are paired.

    seeds  One for each item of the prefix.

    Raises InvalidValue for a temperature that is not above 0.
    """

    temperature: float
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InvalidValue(
                f"temperature={self.temperature} must be above 0; for greedy decoding set it to null"
            )

    def noise(self, step: int, vocabulary: int) -> Tensor:
        """Gumbel noise `[n, vocabulary]` of one step, on the CPU."""
        generator = torch.Generator()
        rows = []
        for seed in self.seeds:
            generator.manual_seed((seed * 1_000_003 + step) % 2**63)
            rows.append(torch.rand(vocabulary, generator=generator))
        uniform = torch.stack(rows).clamp(1e-12, 1 - 1e-7)
        return -(-uniform.log()).log()


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
    broken = torch.zeros((), dtype=torch.bool, device=logits.device)
    for at in range(max_new_tokens):
        broken |= logits.isnan().any()
        if sampling is not None:
            noise = sampling.noise(at, logits.shape[1]).to(logits.device)
            logits = logits / sampling.temperature + noise[items.to(logits.device)]
        token = logits[:, :vocabulary].argmax(dim=-1)
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
