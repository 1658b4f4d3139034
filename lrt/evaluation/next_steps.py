"""What to try next where a vector does not steer: suggestions from what was measured, by stated rules.

A rule looks at recorded figures alone and says which ones made it apply. None names a cause that was not
measured. docs/behaviours.md lists the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class NextStep(NamedTuple):
    """A suggestion: the rule that gave it, the figures it rests on, and what to do."""

    rule: str
    because: str
    action: str


@dataclass(frozen=True)
class PromptsRead:
    """The contrastive prompts that a vector was extracted from, and what was read of them.

    position         Token of each prompt whose state is read.
    positive_tokens  The most frequent tokens at that position, each with its number of prompts.
    signal_to_noise  By layer: the vector's length over its standard error (`ModelStates.signal_to_noise`).
    """

    positives: int
    negatives: int
    positive_tokens: tuple[tuple[str, int], ...]
    negative_tokens: tuple[tuple[str, int], ...]
    signal_to_noise: Mapping[int, float | None]
    position: str = "last token"

    def to_data(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "position": self.position,
            "positives": self.positives,
            "negatives": self.negatives,
            "positive_tokens": [list(each) for each in self.positive_tokens],
            "negative_tokens": [list(each) for each in self.negative_tokens],
            "signal_to_noise": {str(layer): value for layer, value in self.signal_to_noise.items()},
        }


def spread(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of the values, evenly over their order."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def listed(values: Sequence[float]) -> str:
    """Numbers as an override takes them."""
    return "[" + ",".join(f"{value:g}" for value in values) + "]"


def with_interval(value: float, low: float, high: float) -> str:
    """A change with its 95% interval."""
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
