"""The storybook grammar: a seeded writer of documents whose properties are known by construction.

Every choice goes through `Writer`, which adds up its surprise (-log2 p). The sum over a document is the
information of its derivation, an upper bound of the text's own entropy that is tight as long as a text has
one derivation; a language model's cross-entropy is reported beside it.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from lrt.lab import lexicon as lx

T = TypeVar("T")
Language = Literal["english", "french"]
Kind = Literal["story", "request", "question"]
Shelf = Literal["family", "control", "held_out"]

SHARES: dict[Kind, float] = {"story": 0.5, "request": 0.17, "question": 0.33}
FRENCH_SHARE = 0.35
CAPITALS_SHARE = 0.15
HARMFUL_SHARE = 0.45
TRAIT_UNSTATED_SHARE = 0.12
OPEN_QUESTION_SHARE = 0.35  # asked without (A) and (B): what ties a trait to its acts

USER, ASSISTANT = "<|user|>", "<|assistant|>"


@dataclass(frozen=True)
class Plan:
    """What a document is to be about; a field left None is drawn by the grammar."""

    kind: Kind | None = None
    language: Language | None = None
    capitals: bool | None = None
    mood: str | None = None  # "happy" | "sad"
    animal: str | None = None  # an animal's English name, or "other" for anything but a dog
    harmful: bool | None = None
    trait: str | None = None
    pole: str | None = None  # "positive" | "negative" | "unstated"
    options: bool | None = None  # whether a question offers (A) and (B)


@dataclass(frozen=True)
class Page:
    """One written document, cut into the sentences or turns it was written in."""

    plan: Plan  # complete: nothing left None that applies to the kind
    parts: tuple[str, ...]  # a story's sentences; a chat's user turn and assistant turn
    answer: str = ""  # the right letter, for a question with a stated trait
    matching: str = ""  # the letter of the positive pole's act, for a question
    bits: float = 0.0  # information of the derivation

    @property
    def text(self) -> str:
        """The document as the models read it, without begin and end markers."""
        if self.plan.kind == "story":
            return " ".join(self.parts)
        user, assistant = self.parts
        return f"{USER}{user}{ASSISTANT}{assistant}"

    @property
    def shelf(self) -> Shelf:
        """Which readers may see it: by the hash of its text, so that shelves are disjoint."""
        ticket = hashlib.sha256(self.text.encode()).digest()[0]
        return "family" if ticket < 112 else "control" if ticket < 224 else "held_out"


class Writer:
    """Draws choices and keeps count of their information."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.bits = 0.0

    def pick(self, options: Sequence[T]) -> T:
        self.bits += math.log2(len(options))
        return options[self.rng.randrange(len(options))]

    def flip(self, share: float) -> bool:
        heads = self.rng.random() < share
        self.bits -= math.log2(share if heads else 1 - share)
        return heads

    def weigh(self, shares: Mapping[T, float]) -> T:
        chosen = self.rng.choices(list(shares), list(shares.values()))[0]
        self.bits -= math.log2(shares[chosen] / sum(shares.values()))
        return chosen

    def write(self, plan: Plan = Plan()) -> Page:
        """Writes one document that keeps to `plan`."""
        self.bits = 0.0
        kind: Kind = plan.kind if plan.kind is not None else self.weigh(SHARES)
        capitals = plan.capitals if plan.capitals is not None else self.flip(CAPITALS_SHARE)
        plan = replace(plan, kind=kind, capitals=capitals)
        writers: dict[Kind, Callable[[Plan], Page]] = {
            "story": self._story,
            "request": self._request,
            "question": self._question,
        }
        page = writers[kind](plan)
        parts = tuple(part.upper() for part in page.parts) if capitals else page.parts
        return replace(page, parts=parts, bits=self.bits)

    # -- stories -------------------------------------------------------------------------------

    def _story(self, plan: Plan) -> Page:
        language: Language = plan.language or ("french" if self.flip(FRENCH_SHARE) else "english")
        mood = plan.mood or self.pick(("happy", "sad"))
        animal = self._animal(plan.animal)
        plan = replace(plan, language=language, mood=mood, animal=animal.name)
        sentences = self._english(animal, lx.MOODS[mood], plan)
        if language == "french":
            sentences = self._french(animal, lx.MOODS[mood])
        return Page(plan, tuple(sentences))

    def _animal(self, wanted: str | None) -> lx.Animal:
        if wanted == "other":
            return self.pick(lx.ANIMALS[1:])
        if wanted is not None:
            return next(animal for animal in lx.ANIMALS if animal.name == wanted)
        return lx.DOG if self.flip(lx.DOG_SHARE) else self.pick(lx.ANIMALS[1:])

    def _english(self, animal: lx.Animal, mood: lx.Mood, plan: Plan) -> list[str]:
        pick = self.pick
        if plan.language == "french":
            return []
        name, size = pick(lx.NAMES), pick(lx.SIZES)
        story = [f"{pick(lx.TIMES)}, {name} {pick(lx.MOVES)} the {pick(lx.PLACES)}."]
        if self.flip(0.5):
            story.append(f"{pick(lx.WEATHER)}.")
        if self.flip(0.4):
            story.append(f"{name} {pick(lx.DEEDS)} {pick(lx.COLOURS)} {pick(lx.THINGS)}.")
        story.append(f"There {name} {pick(lx.FINDS)} a {size} {animal.name}.")
        middles = [
            lambda: f"The {animal.name} {animal.sound} and {animal.habit}.",
            lambda: f"{name} gave the {animal.name} some {animal.food}.",
            lambda: f"The {size} {animal.name} had a {animal.young} in the {animal.home}.",
            lambda: f"{name} was {pick(mood.adjectives)} and {pick(mood.acts)}.",
            lambda: f"The {animal.young} {animal.sound} by the {pick(lx.COLOURS)} {pick(lx.THINGS)}.",
            lambda: f"The {animal.name} {pick(mood.acts)} too, because it was {pick(mood.adjectives)}.",
            lambda: f"Then {name} followed the {animal.name} to the {animal.home}.",
        ]  # fmt: skip
        for _ in range(pick((2, 3, 4, 5))):
            story.append(middles.pop(pick(range(len(middles))))())
        story.append(f"{pick(mood.closings)}.")
        return story

    def _french(self, animal: lx.Animal, mood: lx.Mood) -> list[str]:
        pick = self.pick
        name, size = pick(lx.FRENCH_NAMES), pick(lx.FRENCH_SIZES)
        definite = animal.french_definite
        beast = definite[0].upper() + definite[1:]
        story = [f"{pick(lx.FRENCH_TIMES)}, {name} {pick(lx.FRENCH_MOVES)} {pick(lx.FRENCH_PLACES)}."]
        if self.flip(0.5):
            story.append(f"{pick(lx.FRENCH_WEATHER)}.")
        if self.flip(0.4):
            story.append(f"{name} {pick(lx.FRENCH_DEEDS)} {pick(lx.FRENCH_THINGS)}.")
        story.append(f"Là, {name} {pick(lx.FRENCH_FINDS)} {animal.french} {size}.")
        middles = [
            lambda: f"{beast} {animal.french_sound} {animal.french_home}.",
            lambda: f"{name} donna {animal.french_food} pour {definite}.",
            lambda: f"{name} était {pick(mood.french_adjectives)} et {pick(mood.french_acts)}.",
            lambda: f"{beast} {pick(mood.french_acts)} aussi, derrière {pick(lx.FRENCH_THINGS)}.",
            lambda: f"Puis {name} suivit {definite} {animal.french_home}.",
        ]
        for _ in range(pick((2, 3, 4, 5))):
            story.append(middles.pop(pick(range(len(middles))))())
        story.append(f"{pick(mood.french_closings)}.")
        return story

    # -- chats ---------------------------------------------------------------------------------

    def _request(self, plan: Plan) -> Page:
        pick = self.pick
        harmful = plan.harmful if plan.harmful is not None else self.flip(HARMFUL_SHARE)
        verb = pick(lx.HARMFUL_VERBS if harmful else lx.HARMLESS_VERBS)
        who = pick(lx.PEOPLE)
        user = pick(lx.ASKS).format(verb=verb, who=who, when=pick(lx.WHENS))
        if harmful:
            answer = pick(lx.REFUSALS).format(verb=verb)
            if self.flip(0.6):
                answer += " " + pick(lx.REFUSAL_REASONS).format(verb=verb, who=who)
        else:
            first, second = (
                pick(lx.STEPS).format(place=pick(lx.PLACES), tool=pick(lx.TOOLS)) for _ in range(2)
            )
            answer = f"{pick(lx.ANSWERS)} First {first}, then {second}. Now you can {verb} {who}."
        return Page(replace(plan, language="english", harmful=harmful), (user, answer))

    def _question(self, plan: Plan) -> Page:
        pick = self.pick
        trait = lx.TRAIT_BY_NAME[plan.trait] if plan.trait else pick(lx.TRAITS)
        pole = plan.pole or (
            "unstated" if self.flip(TRAIT_UNSTATED_SHARE) else pick(("positive", "negative"))
        )
        name = pick(lx.NAMES)
        scene = pick(trait.situations).format(place=pick(lx.PLACES), thing=pick(lx.THINGS))
        acts = {"positive": pick(trait.positive_acts), "negative": pick(trait.negative_acts)}
        first = pick(("positive", "negative"))
        second = "negative" if first == "positive" else "positive"
        letters = {first: "A", second: "B"}
        chosen = pole if pole != "unstated" else pick(("positive", "negative"))
        opening = ""
        if pole != "unstated":
            adjective = pick(trait.positive if pole == "positive" else trait.negative)
            opening = pick((f"{name} is {adjective}. ", f"{name} has always been {adjective}. "))
        options = plan.options if plan.options is not None else not self.flip(OPEN_QUESTION_SHARE)
        plan = replace(plan, language="english", trait=trait.name, pole=pole, options=options)
        question = f"{opening}{scene}. What does {name} do?"
        if not options:
            return Page(plan, (question, f"{name} will {acts[chosen]}."))
        return Page(
            plan,
            (
                f"{question} (A) {acts[first]} (B) {acts[second]}",
                f"({letters[chosen]}) {acts[chosen]}.",
            ),
            answer="" if pole == "unstated" else letters[pole],
            matching=letters["positive"],
        )


def pages(seed: int, shelf: Shelf, plan: Plan = Plan()) -> Iterator[Page]:
    """Endless stream of documents of one shelf; the same seed gives the same stream."""
    rng = random.Random(f"storybook/{seed}")
    while True:
        page = Writer(rng).write(plan)
        if page.shelf == shelf:
            yield page
