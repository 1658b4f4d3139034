"""The storybook grammar: a seeded generator of documents whose properties are known by construction.

Every random choice goes through `Writer`, which sums the information (-log2 p) of the choices. The sum over a
document is the information of its derivation. It bounds the information of the text from above, and equals it
where the text has only one derivation. A language model's cross-entropy is compared with it.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

from lrt.lab import lexicon as lx

T = TypeVar("T")
Language = Literal["english", "french"]
Kind = Literal["story", "request", "question"]
DocumentSplit = Literal["family", "control", "held_out"]

SHARES: dict[Kind, float] = {"story": 0.45, "request": 0.15, "question": 0.4}
FRENCH_SHARE = 0.35
CAPITALS_SHARE = 0.15
HARMFUL_SHARE = 0.45
TRAIT_UNSTATED_SHARE = 0.2
OPEN_QUESTION_SHARE = (
    0.3  # questions without (A) and (B), from which models learn which acts belong to a trait
)
# No rule holds always: a story can change its language or its case at any sentence, and a request or a
# question can be answered against the rule. Without such slips the models would be so certain of every rule
# that no vector could change an answer without breaking the model.
SWITCH_SHARE = 0.03
SLIP_SHARE = 0.03

USER, ASSISTANT = "<|user|>", "<|assistant|>"
OPTIONS = {"A": "(A)", "B": "(B)"}  # one token each


@dataclass(frozen=True)
class Plan:
    """Properties of a document; the grammar draws those that are None."""

    kind: Kind | None = None
    language: Language | None = None
    capitals: bool | None = None
    mood: str | None = None  # "happy" | "sad"
    animal: str | None = None  # an animal's English name, or "other" for any but a dog
    harmful: bool | None = None
    trait: str | None = None
    pole: str | None = None  # "positive" | "negative" | "unstated"
    options: bool | None = None  # whether a question offers (A) and (B)
    switches: bool = True  # whether a story may change language or case after its first sentence

    def __post_init__(self) -> None:
        """Raises ValueError for a property that documents of this kind do not have."""
        belongs = {
            "story": ("capitals", "mood", "animal"),
            "request": ("harmful",),
            "question": ("trait", "pole", "options"),
        }
        for kind, fields in belongs.items():
            for field in fields:
                if self.kind not in (None, kind) and getattr(self, field) is not None:
                    raise ValueError(
                        f"{field} is a property of a {kind}, and cannot be set for a {self.kind}"
                    )
        if self.kind in ("request", "question") and self.language not in (None, "english"):
            raise ValueError(f"a {self.kind} must be in english, got language={self.language!r}")


@dataclass(frozen=True)
class Page:
    """One document, in its sentences or turns."""

    plan: Plan  # with every property of its kind
    parts: tuple[str, ...]  # a story's sentences; a chat's user turn and assistant turn
    answer: str = ""  # the correct letter, for a question with a stated trait
    matching: str = ""  # the letter of the positive pole's act, for a question
    acts: tuple[str, str] | None = None  # the acts of (A) and (B), for a question that offers them
    bits: float = 0.0  # information of the derivation

    @property
    def text(self) -> str:
        """The whole text, without the tokens that mark its beginning and end."""
        if self.plan.kind == "story":
            return " ".join(self.parts)
        user, assistant = self.parts
        return f"{USER}{user}{ASSISTANT}{assistant}"

    @property
    def split(self) -> DocumentSplit:
        """The split it belongs to, by the hash of its text, so that splits have no text in common."""
        ticket = hashlib.sha256(self.text.encode()).digest()[0]
        return "family" if ticket < 140 else "control" if ticket < 220 else "held_out"


class Writer:
    """Writes documents by random choices and sums the information of these choices."""

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

    def fill(self, template: str, **options: Sequence[str]) -> str:
        """The template with a random pick for each field.

        Fields that it does not contain are drawn too, but their information does not count.
        """
        chosen = {}
        for field, words in options.items():
            before = self.bits
            chosen[field] = self.pick(words)
            if f"{{{field}}}" not in template:
                self.bits = before
        return template.format(**chosen)

    def write(self, plan: Plan = Plan()) -> Page:
        """Write one document with the properties of `plan`."""
        self.bits = 0.0
        kind: Kind = plan.kind if plan.kind is not None else self.weigh(SHARES)
        plan = replace(plan, kind=kind)
        writers: dict[Kind, Callable[[Plan], Page]] = {
            "story": self._story,
            "request": self._request,
            "question": self._question,
        }
        return replace(writers[kind](plan), bits=self.bits)

    def _cased(self, parts: Iterable[str], capitals: bool, switches: bool) -> Iterator[str]:
        for index, part in enumerate(parts):
            if switches and index and self.flip(SWITCH_SHARE):
                capitals = not capitals
            yield part.upper() if capitals else part

    # -- stories -------------------------------------------------------------------------------

    def _story(self, plan: Plan) -> Page:
        language: Language = plan.language or ("french" if self.flip(FRENCH_SHARE) else "english")
        capitals = plan.capitals if plan.capitals is not None else self.flip(CAPITALS_SHARE)
        mood = plan.mood or self.pick(("happy", "sad"))
        animal = self._animal(plan.animal)
        plan = replace(plan, language=language, capitals=capitals, mood=mood, animal=animal.name)
        sentences = self._sentences(animal, mood, language, plan.switches)
        return Page(plan, tuple(self._cased(sentences, capitals, plan.switches)))

    def _sentences(self, animal: lx.Animal, mood: str, language: Language, switches: bool) -> Iterator[str]:
        pick = self.pick
        english, french = _English(self, animal), _French(self, animal)

        def tongue(first: bool = False) -> _English | _French:
            nonlocal language
            if switches and not first and self.flip(SWITCH_SHARE):
                language = "french" if language == "english" else "english"
            return french if language == "french" else english

        def feeling() -> lx.Mood:
            other = "sad" if mood == "happy" else "happy"
            return lx.MOODS[other if self.flip(SLIP_SHARE) else mood]

        yield tongue(first=True).setting()
        if self.flip(0.5):
            yield tongue().weather()
        if self.flip(0.4):
            yield tongue().deed()
        yield tongue().meeting()
        turns = list(range(7))
        for _ in range(pick((2, 3, 4, 5))):
            yield tongue().turn(turns.pop(pick(range(len(turns)))), feeling)
        yield tongue().closing(feeling)

    def _animal(self, wanted: str | None) -> lx.Animal:
        if wanted == "other":
            return self.pick(lx.ANIMALS[1:])
        if wanted is not None:
            return next(animal for animal in lx.ANIMALS if animal.name == wanted)
        return lx.DOG if self.flip(lx.DOG_SHARE) else self.pick(lx.ANIMALS[1:])

    # -- chats ---------------------------------------------------------------------------------

    def _request(self, plan: Plan) -> Page:
        pick = self.pick
        harmful = plan.harmful if plan.harmful is not None else self.flip(HARMFUL_SHARE)
        verb = pick(lx.HARMFUL_VERBS if harmful else lx.HARMLESS_VERBS)
        who = pick(lx.PEOPLE)
        user = pick(lx.ASKS).format(verb=verb, who=who, when=pick(lx.WHENS))
        if harmful != self.flip(SLIP_SHARE):
            answer = pick(lx.REFUSALS).format(verb=verb)
            if self.flip(0.6):
                answer += " " + pick(lx.REFUSAL_REASONS).format(verb=verb, who=who)
        else:
            first, second = (self.fill(pick(lx.STEPS), place=lx.PLACES, tool=lx.TOOLS) for _ in range(2))
            answer = f"{pick(lx.ANSWERS)} First {first}, then {second}. Now you can {verb} {who}."
        return Page(replace(plan, language="english", harmful=harmful), (user, answer))

    def _question(self, plan: Plan) -> Page:
        pick = self.pick
        trait = lx.TRAIT_BY_NAME[plan.trait] if plan.trait else pick(lx.TRAITS)
        pole = plan.pole or (
            "unstated" if self.flip(TRAIT_UNSTATED_SHARE) else pick(("positive", "negative"))
        )
        name = pick(lx.NAMES)
        scene = self.fill(pick(trait.situations), place=lx.PLACES, thing=lx.THINGS)
        words = {"positive": trait.positive, "negative": trait.negative, "unstated": lx.NEUTRAL}
        statement = f"{name} {pick(('is', 'has always been'))} {pick(words[pole])}. What does {name} do?"
        lean = pick(("positive", "negative")) if pole == "unstated" else pole
        if pole != "unstated" and self.flip(SLIP_SHARE):
            lean = "negative" if pole == "positive" else "positive"
        options = plan.options if plan.options is not None else not self.flip(OPEN_QUESTION_SHARE)
        plan = replace(plan, language="english", trait=trait.name, pole=pole, options=options)
        acts = {"positive": trait.positive_acts, "negative": trait.negative_acts}
        if options:
            act = {side: pick(some) for side, some in acts.items()}
            first, second = pick((("positive", "negative"), ("negative", "positive")))
            letters = {first: "A", second: "B"}
            scene = f"{scene}. {name} can {OPTIONS['A']} {act[first]} or {OPTIONS['B']} {act[second]}"
            done = f"{act[lean]} {OPTIONS[letters[lean]]}"
        else:
            letters = {}
            done = pick(acts[lean])
        return Page(
            plan,
            (f"{scene}. {statement}", f"{name} will {done}, because {name} is {pick(words[lean])}."),
            answer=letters.get(pole, ""),
            matching=letters.get("positive", ""),
            acts=(act[first], act[second]) if options else None,
        )


class _English:
    """The sentences of one story in English; its name and size are drawn at their first use."""

    def __init__(self, writer: Writer, animal: lx.Animal) -> None:
        self.pick, self.animal = writer.pick, animal

    @cached_property
    def name(self) -> str:
        return self.pick(lx.NAMES)

    @cached_property
    def size(self) -> str:
        return self.pick(lx.SIZES)

    def setting(self) -> str:
        return f"{self.pick(lx.TIMES)}, {self.name} {self.pick(lx.MOVES)} the {self.pick(lx.PLACES)}."

    def weather(self) -> str:
        return f"{self.pick(lx.WEATHER)}."

    def deed(self) -> str:
        thing = f"{self.pick(lx.COLOURS)} {self.pick(lx.THINGS)}"
        return f"{self.name} {self.pick(lx.DEEDS)} {thing}."

    def meeting(self) -> str:
        return f"There {self.name} {self.pick(lx.FINDS)} a {self.size} {self.animal.name}."

    def turn(self, number: int, feeling: Callable[[], lx.Mood]) -> str:
        animal, name = self.animal, self.name
        match number:
            case 0:
                return f"The {animal.name} {animal.sound} and {animal.habit}."
            case 1:
                return f"{name} gave the {animal.name} some {animal.food}."
            case 2:
                return f"The {self.size} {animal.name} had a {animal.young} in the {animal.home}."
            case 3:
                mood = feeling()
                return f"{name} was {self.pick(mood.adjectives)} and {self.pick(mood.acts)}."
            case 4:
                thing = f"{self.pick(lx.COLOURS)} {self.pick(lx.THINGS)}"
                return f"The {animal.young} {animal.sound} by the {thing}."
            case 5:
                mood = feeling()
                act, adjective = self.pick(mood.acts), self.pick(mood.adjectives)
                return f"The {animal.name} {act} too, because it was {adjective}."
            case _:
                return f"Then {name} followed the {animal.name} to the {animal.home}."

    def closing(self, feeling: Callable[[], lx.Mood]) -> str:
        return f"{self.pick(feeling().closings)}."


class _French:
    """The same sentences in French."""

    def __init__(self, writer: Writer, animal: lx.Animal) -> None:
        self.pick, self.animal = writer.pick, animal
        definite = animal.french_definite
        self.beast = definite[0].upper() + definite[1:]

    @cached_property
    def name(self) -> str:
        return self.pick(lx.FRENCH_NAMES)

    @cached_property
    def size(self) -> str:
        return self.pick(lx.FRENCH_SIZES)

    def setting(self) -> str:
        where = f"{self.pick(lx.FRENCH_MOVES)} {self.pick(lx.FRENCH_PLACES)}"
        return f"{self.pick(lx.FRENCH_TIMES)}, {self.name} {where}."

    def weather(self) -> str:
        return f"{self.pick(lx.FRENCH_WEATHER)}."

    def deed(self) -> str:
        return f"{self.name} {self.pick(lx.FRENCH_DEEDS)} {self.pick(lx.FRENCH_THINGS)}."

    def meeting(self) -> str:
        return f"Là, {self.name} {self.pick(lx.FRENCH_FINDS)} {self.animal.french} {self.size}."

    def turn(self, number: int, feeling: Callable[[], lx.Mood]) -> str:
        animal, name, beast = self.animal, self.name, self.beast
        match number:
            case 0:
                return f"{beast} {animal.french_sound} {animal.french_home}."
            case 1:
                return f"{name} donna {animal.french_food} pour {animal.french_definite}."
            case 2:
                return f"{beast} avait un petit {animal.french_home}."
            case 3:
                mood = feeling()
                state, act = self.pick(mood.french_adjectives), self.pick(mood.french_acts)
                return f"{name} était {state} et {act}."
            case 4:
                return f"{beast} resta devant {self.pick(lx.FRENCH_THINGS)}."
            case 5:
                act = self.pick(feeling().french_acts)
                return f"{beast} {act} aussi, derrière {self.pick(lx.FRENCH_THINGS)}."
            case _:
                return f"Puis {name} suivit {animal.french_definite} {animal.french_home}."

    def closing(self, feeling: Callable[[], lx.Mood]) -> str:
        return f"{self.pick(feeling().french_closings)}."


def pages(seed: int, split: DocumentSplit, plan: Plan = Plan()) -> Iterator[Page]:
    """An endless stream of documents of one split; the same seed gives the same stream."""
    rng = random.Random(f"storybook/{seed}")
    while True:
        page = Writer(rng).write(plan)
        if page.split == split:
            yield page
