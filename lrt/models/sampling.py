"""Random draws of generated texts: the same in every condition, on every device and in every batch.

Noise is a hash of (seed, step, token), in integers, so nothing has to be drawn in order. A row's noise does
not depend on the rows beside it, on the device, or on what was drawn before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrt.errors import InvalidValue

SAMPLER = 2
"""Version of the draws. Texts of another version are other texts, so it is among the facts of a result."""

# Steele, Lea and Flood, Fast splittable pseudorandom number generators (OOPSLA 2014): SplitMix64. Its
# 64-bit integers are torch's int64, whose products wrap around.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_SHIFTS = (30, 27, 31)


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

    def draws(self, rows: Tensor) -> Draws:
        """The draws of rows, each of which is an item's number, `[r]`; on the device of `rows`."""
        items, row = torch.unique(rows, return_inverse=True)
        wrapped = [(seed + 2**63) % 2**64 - 2**63 for seed in self.seeds]
        seeds = torch.tensor(wrapped, dtype=torch.int64, device=rows.device)
        return Draws(self.temperature, seeds[items], row)


@dataclass(frozen=True)
class Draws:
    """The random draws of a batch of rows.

    seeds  `[n]` int64, of the batch's items.
    row    `[r]` long, the item of each row.
    """

    temperature: float
    seeds: Tensor
    row: Tensor

    def tokens(self, logits: Tensor, step: int) -> Tensor:  # [r, V] -> [r] long
        """A token of each row, drawn from the softmax of `logits / temperature`."""
        # once an item, whatever its number of rows; the head of a model may lie on another device
        noise = gumbel(self.seeds.to(logits.device), step, logits.shape[1])
        return (logits / self.temperature + noise[self.row.to(logits.device)]).argmax(dim=-1)


def gumbel(seeds: Tensor, step: int, count: int) -> Tensor:
    """Standard Gumbel noise, float32 `[n, count]`, of each seed (int64 `[n]`) at one step.

    Computed from 52 bits in float64, so that of many draws the largest differ, and so that devices whose
    logarithms differ in the last bit still agree after rounding.
    """
    return -(-uniform(seeds, step, count).log_()).log_().float()


def uniform(seeds: Tensor, step: int, count: int) -> Tensor:
    """Uniform numbers, float64 `[n, count]`, between 0 and 1 and never either; the same on every device."""
    streams = _mixed(_mixed(seeds.clone()).add_(step))
    bits = _mixed(streams[:, None] + _GAMMA * torch.arange(1, count + 1, device=seeds.device))
    return _shifted(bits, 12).double().add_(0.5).mul_(2.0**-52)


def _mixed(values: Tensor) -> Tensor:
    """A bijection of int64, in place, whose output bits each depend on all input bits."""
    for shift, factor in zip(_SHIFTS, (*_FACTORS, 1), strict=True):
        values.bitwise_xor_(_shifted(values, shift))
        if factor != 1:
            values.mul_(factor)
    return values


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shifted to the right as unsigned integers: torch shifts signed ones, and repeats the sign."""
    return (values >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def sampling_facts(temperature: float) -> dict[str, Any]:
    """What determines generated texts beside model, prompts and edits; greedy ones need no sampler."""
    return {"temperature": temperature} | ({"sampler": SAMPLER} if temperature else {})
