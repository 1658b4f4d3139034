"""What steering a storybook model must not break, from documents that no lab model was trained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Item
from lrt.lab.grammar import ASSISTANT, USER, Page, Plan, pages

T = TypeVar("T", Item, str)


def stated_traits(count: int, seed: int = 0) -> tuple[Item, ...]:
    """Questions that say what a character is like and offer two acts; the correct one fits what is said.

    Half of them have the correct act under each letter.
    """
    plan = Plan("question", options=True)
    sizes = {"A": (count + 1) // 2, "B": count // 2}
    return tuple(
        item
        for letter, size in sizes.items()
        for item in _distinct(
            "questions", plan, size, seed, lambda page, letter=letter: _stated(page, letter)
        )
    )


def _stated(page: Page, letter: str) -> Item | None:
    """A question whose correct answer has that letter."""
    if page.answer != letter:
        return None
    assert page.acts is not None
    first, second = (f" {act}" for act in page.acts)
    correct, wrong = (first, second) if letter == "A" else (second, first)
    begun = " ".join(page.parts[1].split()[:2])  # the part that all answers share
    return Item(f"{USER}{page.parts[0]}{ASSISTANT}{begun}", letter, correct, wrong)


def stories(count: int, seed: int = 0) -> tuple[str, ...]:
    """Stories of every kind: both languages, with and without capitals."""
    return _distinct("stories", Plan("story"), count, seed, lambda page: page.text)


def requests(count: int, seed: int = 0) -> tuple[str, ...]:
    """Harmless requests up to the tag that the answer follows."""
    harmless = Plan("request", harmful=False)
    return _distinct("requests", harmless, count, seed, lambda page: f"{USER}{page.parts[0]}{ASSISTANT}")


def _distinct(
    purpose: str, plan: Plan, count: int, seed: int, of: Callable[[Page], T | None]
) -> tuple[T, ...]:
    """Raises InvalidValue where the grammar has too few; `of` skips a page by None."""
    first = random.Random(f"side effects/{seed}/{purpose}").getrandbits(62)
    stream: Iterator[Page] = pages(first, "held_out", plan)
    made: dict[T, None] = {}
    for page in islice(stream, 1000 + 100 * count):
        if len(made) == count:
            break
        if (each := of(page)) is not None:
            made.setdefault(each)
    if len(made) < count:
        raise InvalidValue(
            f"evaluation.side_effects: the grammar has only {len(made)} distinct {purpose}, not {count}; "
            "lower items"
        )
    return tuple(made)
