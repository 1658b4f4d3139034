"""What steering a storybook model must not break, from documents that no lab model was trained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Item
from lrt.lab import lexicon as lx
from lrt.lab.grammar import ASSISTANT, USER, Page, Plan, pages

T = TypeVar("T", Item, str)


def questions(count: int, seed: int = 0) -> tuple[Item, ...]:
    """Two-choice questions about what the lab's models know: half about animals, half about characters.

    - What the animal of a story eats, against what another animal eats.
    - What a character does who is said to have a trait, against what one without it does; as many have the
      correct act under each letter.
    """
    about_animals = count // 2
    letters = {"A": (count - about_animals + 1) // 2, "B": (count - about_animals) // 2}
    rng = random.Random(f"side effects/{seed}/other animals")
    plain = Plan("story", "english", switches=False, capitals=False)
    items = [*_distinct("animals", plain, about_animals, seed, lambda page: _feeding(page, rng))]
    plan = Plan("question", options=True)
    for letter, size in letters.items():
        items += _distinct("questions", plan, size, seed, partial(_stated, letter=letter))
    return tuple(items)


def _feeding(page: Page, rng: random.Random) -> Item:
    """The beginning of a story up to what its animal is given."""
    animal = next(each for each in lx.ANIMALS if each.name == page.plan.animal)
    other = rng.choice([each for each in lx.ANIMALS if each.food != animal.food])
    met = next(index for index, sentence in enumerate(page.parts) if sentence.startswith("There "))
    name = page.parts[met].split()[1]
    story = " ".join((*page.parts[: met + 1], f"{name} gave the {animal.name} some"))
    return Item(story, "food", f" {animal.food}", f" {other.food}")


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
