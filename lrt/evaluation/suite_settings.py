"""What the settings of every suite must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Sizes(Protocol):
    """How many texts and items a suite is made of."""

    @property
    def contrast_pairs(self) -> int: ...
    @property
    def development(self) -> int: ...
    @property
    def test(self) -> int: ...


def check_sizes(settings: Sizes, suite: str, tokens: str) -> None:
    """Raises ValueError, naming the suite, for parts of fewer than two, or where the setting called `tokens`,
    the length of a written answer, is below 1."""
    parts = settings.contrast_pairs, settings.development, settings.test
    written = getattr(settings, tokens)
    if min(parts) < 2 or written < 1:
        raise ValueError(
            f"a {suite} suite needs contrast_pairs, development and test of at least 2 and {tokens} of at "
            f"least 1; got {', '.join(map(str, parts))}, {written}"
        )


def check_names(names: Sequence[str], allowed: Sequence[str], suite: str) -> None:
    """Raises ValueError, naming the suite, for no names, one that is not allowed, and one named twice."""
    if not names or not set(names) <= set(allowed) or len(set(names)) < len(names):
        raise ValueError(f"names={list(names)} of a {suite} suite; allowed, each once: {', '.join(allowed)}")
