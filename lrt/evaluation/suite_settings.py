"""Checks that the settings of all suites share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lrt.errors import InvalidValue


class Sizes(Protocol):
    """Numbers of contrastive texts and of items of a suite."""

    @property
    def contrast_pairs(self) -> int: ...
    @property
    def development(self) -> int: ...
    @property
    def test(self) -> int: ...


def check_sizes(settings: Sizes, suite: str, tokens: str | None = None) -> None:
    """Raise InvalidValue, naming the suite, for a size below 2.

    tokens  Name of the setting that holds the length of a generated answer, which must be at least 1.
    """
    least = {"contrast_pairs": 2, "development": 2, "test": 2} | ({tokens: 1} if tokens else {})
    wrong = [
        f"{name}={getattr(settings, name)}" for name, low in least.items() if getattr(settings, name) < low
    ]
    if wrong:
        raise InvalidValue(
            f"{', '.join(wrong)} of a {suite} suite: "
            + ", ".join(f"{name} must be at least {low}" for name, low in least.items())
        )


def check_names(names: Sequence[str], allowed: Sequence[str], suite: str) -> None:
    """Raise InvalidValue, naming the suite, for no names, an unknown name, or one named twice."""
    if not names or not set(names) <= set(allowed) or len(set(names)) < len(names):
        raise InvalidValue(
            f"names={list(names)} of a {suite} suite; allowed, each once: {', '.join(allowed)}"
        )
