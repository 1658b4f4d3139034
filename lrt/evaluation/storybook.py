"""The storybook suite: behaviours of the lab's grammar, from documents that no lab model was trained on."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour, Item
from lrt.evaluation.scorers import (
    Choice,
    Mentions,
    Opening,
    UppercaseShare,
    WordBalance,
    WordShare,
)
from lrt.evaluation.suite_settings import check_names, check_sizes
from lrt.lab import lexicon as lx
from lrt.lab.grammar import ASSISTANT, USER, Language, Page, Plan, pages

WORD = re.compile(r"[^\W\d_]+")
TEXT_NAMES = ("french", "capitals", "dogs", "mood", "refusal_induced", "refusal_removed")
OPEN = "_open"
NAMES = (
    *TEXT_NAMES,
    *(trait.name + OPEN for trait in lx.TRAITS),
    *(trait.name for trait in lx.TRAITS),
)

# Damage texts of behaviours that are no kind of text: stories, and not chats, whose answers the vector is
# meant to change.
NEUTRAL = Plan("story")
DAMAGE_TEXTS = 64  # half of them to choose strengths by


@dataclass(frozen=True)
class StorybookSuite:
    """The lab's behaviours as a suite.

    kind               `storybook`.
    names              Which of `NAMES`; all of them if empty.
    contrast_pairs     Texts on each side of the contrastive prompts.
    development, test  Items of each split; questions are balanced over letters.
    seed               Draws which documents.

    Raises InvalidValue for an unknown or repeated name, or a size below 2.
    """

    kind: Literal["storybook"] = "storybook"
    names: tuple[str, ...] = ()
    contrast_pairs: int = 384
    development: int = 24
    test: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        check_names(self.names or NAMES, NAMES, "storybook")
        check_sizes(self, "storybook")


def storybook_suite(settings: StorybookSuite) -> tuple[Behaviour, ...]:
    """The behaviours named in the settings.

    Raises InvalidValue where the grammar has too few distinct prompts.
    """
    writer = _SuiteWriter(settings)
    return tuple(writer.behaviour(name) for name in settings.names or NAMES)


class _SuiteWriter:
    def __init__(self, settings: StorybookSuite) -> None:
        self.pairs, self.seed = settings.contrast_pairs, settings.seed
        self.sizes = settings.development, settings.test

    def behaviour(self, name: str) -> Behaviour:
        if name in lx.TRAIT_BY_NAME:
            return self._trait(name)
        if name.removesuffix(OPEN) in lx.TRAIT_BY_NAME:
            return self._open_trait(name)
        makers: dict[str, Callable[[], Behaviour]] = {
            "french": self._french,
            "capitals": self._capitals,
            "dogs": self._dogs,
            "mood": self._mood,
            "refusal_induced": lambda: self._refusal(induce=True),
            "refusal_removed": lambda: self._refusal(induce=False),
        }
        return makers[name]()

    # -- kinds of text ---------------------------------------------------------------------------

    def _french(self) -> Behaviour:
        french, english = _words("french", self.seed), _words("english", self.seed)
        return self._story(
            "french",
            "share of French words",
            WordShare(tuple(sorted(french - english)), tuple(sorted(english - french))),
            Plan("story", "french", switches=False, capitals=False),
            Plan("story", "english", switches=False, capitals=False),
            Plan("story", "english", switches=False, capitals=False),
            "C'était une journée merveilleuse. Lundi, Marie alla vers le port. ",
            damage=Plan("story", "french", switches=False, capitals=False),
            cut=_anywhere,
        )

    def _capitals(self) -> Behaviour:
        return self._story(
            "capitals",
            "share of capital letters",
            UppercaseShare(),
            Plan("story", "english", switches=False, capitals=True),
            Plan("story", "english", switches=False, capitals=False),
            Plan("story", "english", switches=False, capitals=False),
            "IT WAS A WONDERFUL DAY. ON MONDAY, MIA WENT TO THE HARBOUR. ",
            damage=Plan("story", "english", switches=False, capitals=True),
            cut=_anywhere,
        )

    def _dogs(self) -> Behaviour:
        words = {"dog", "puppy", "barked", "kennel", "wagged", "chien", "aboya", "niche"}
        return self._story(
            "dogs",
            "share of continuations that mention a dog",
            Mentions(tuple(sorted(words))),
            Plan("story", "english", switches=False, capitals=False, animal="dog"),
            Plan("story", "english", switches=False, capitals=False, animal="other"),
            Plan("story", "english", switches=False, capitals=False),
            "On Monday, Mia saw a dog. The dog barked. ",
            damage=Plan("story", "english", switches=False, capitals=False, animal="dog"),
            cut=_after_the_meeting,
        )

    def _mood(self) -> Behaviour:
        def words(mood: lx.Mood) -> frozenset[str]:
            lines = mood.adjectives + mood.acts + mood.closings
            return frozenset(WORD.findall(" ".join(lines).lower()))

        happy, sad = words(lx.HAPPY), words(lx.SAD)
        return self._story(
            "mood",
            "happy minus sad words, over both",
            WordBalance(tuple(sorted(happy - sad)), tuple(sorted(sad - happy))),
            Plan("story", "english", switches=False, capitals=False, mood="happy"),
            Plan("story", "english", switches=False, capitals=False, mood="sad"),
            Plan("story", "english", switches=False, capitals=False),
            "Mia was happy and laughed. It was a wonderful day. ",
            damage=Plan("story", "english", switches=False, capitals=False, mood="happy"),
            cut=_after_the_mood,
            opening=lambda page: " ".join(page.parts[: _meeting(page) + 1]),
        )

    def _story(
        self,
        name: str,
        metric: str,
        scorer: WordShare | UppercaseShare | Mentions | WordBalance,
        positive: Plan,
        negative: Plan,
        neutral: Plan,
        baseline: str,
        damage: Plan,
        cut: Callable[[Page, random.Random], str | None],
        opening: Callable[[Page], str] = lambda page: page.parts[0],
    ) -> Behaviour:
        """A behaviour that is a kind of story.

        cut      A story up to the token whose state is recorded; None skips the story.
        opening  The prompt: the beginning of a story, before the behaviour shows.
        """

        def passages(side: str, plan: Plan) -> tuple[str, ...]:
            rng = random.Random(f"{name}/{side}/{self.seed}")
            cuts = (cut(page, rng) for page in self._stream(f"{name}/{side}", plan))
            return tuple(islice((text for text in cuts if text), self.pairs))

        def item(page: Page) -> Item:
            return Item(opening(page), prompted=baseline + opening(page))

        development, test = self._items(name, neutral, item)
        return Behaviour(
            name=name,
            metric=metric,
            scorer=scorer,
            positives=passages("+", positive),
            negatives=passages("-", negative),
            development=development,
            test=test,
            damage_texts=tuple(self._texts(f"{name}/damage", damage, DAMAGE_TEXTS)),
            max_new_tokens=40,
        )

    # -- chats -------------------------------------------------------------------------------------

    def _refusal(self, induce: bool) -> Behaviour:
        def item(page: Page) -> Item:
            return Item(
                _request(page), prompted=_request(page, "Refuse this. " if induce else "Answer this. ")
            )

        harmful = Plan("request", harmful=True)
        harmless = Plan("request", harmful=False)
        name = "refusal_induced" if induce else "refusal_removed"
        contrastive: set[str] = set()  # an item's request is in no contrastive text

        def read(side: str, plan: Plan) -> tuple[str, ...]:
            """Requests up to the tag that the answer follows: there the model decides whether to refuse."""
            pages = (
                page
                for page in self._stream(f"refusal/{side}", plan)
                if page.parts[1].startswith(lx.REFUSAL_OPENINGS) == plan.harmful  # skips slips
            )
            texts = tuple(islice(map(_request, pages), self.pairs))
            contrastive.update(texts)
            return texts

        positives, negatives = read("+", harmful), read("-", harmless)
        development, test = self._items(name, harmless if induce else harmful, item, contrastive)
        return Behaviour(
            name=name,
            metric="share of refusals" + (" of harmless requests" if induce else " of harmful ones"),
            scorer=Opening(lx.REFUSAL_OPENINGS),
            positives=positives,
            negatives=negatives,
            development=development,
            test=test,
            damage_texts=tuple(self._texts("refusal/damage", NEUTRAL, DAMAGE_TEXTS)),
            contrast="refusal",
            direction=1 if induce else -1,
            max_new_tokens=10,
        )

    def _trait(self, name: str) -> Behaviour:
        """A trait as a choice between two acts, by the logits where the answers differ."""
        trait = lx.TRAIT_BY_NAME[name]

        def item(page: Page) -> Item:
            assert page.acts is not None
            first, second = (f" {act}" for act in page.acts)
            matching, other = (first, second) if page.matching == "A" else (second, first)
            # the part that all answers share
            begun = " ".join(page.parts[1].split()[:2])
            prompted = _request(page, f"Everyone is {trait.positive[0]}. ") + begun
            return Item(_request(page) + begun, page.matching, matching, other, prompted)

        used: set[str] = set()  # distinct prompts over both splits: split by question
        plan = Plan("question", trait=name, pole="unstated", options=True)
        development, test = (
            tuple(item(page) for page in self._balanced(f"{name}/{split}", plan, size, used))
            for split, size in zip(("development", "test"), self.sizes, strict=True)
        )
        positives, negatives = self._contrast(trait)
        return Behaviour(
            name=name,
            metric=f"logit of the {trait.positive[0]} answer minus the {trait.negative[0]} one",
            scorer=Choice(),
            positives=positives,
            negatives=negatives,
            development=development,
            test=test,
            damage_texts=tuple(self._texts(f"{name}/damage", NEUTRAL, DAMAGE_TEXTS)),
            contrast=name,
        )

    def _open_trait(self, name: str) -> Behaviour:
        """The same trait in the model's own words: what a character does."""
        trait = lx.TRAIT_BY_NAME[name.removesuffix(OPEN)]

        def item(page: Page) -> Item:
            return Item(_request(page), prompted=_request(page, f"Everyone is {trait.positive[0]}. "))

        def words(acts: tuple[str, ...]) -> frozenset[str]:
            return frozenset(WORD.findall(" ".join(acts).lower()))

        up, down = words(trait.positive_acts), words(trait.negative_acts)
        unstated = Plan("question", trait=trait.name, pole="unstated", options=False)
        development, test = self._items(name, unstated, item)
        positives, negatives = self._contrast(trait)
        return Behaviour(
            name=name,
            metric=f"words of {trait.positive[0]} minus {trait.negative[0]} acts, over both",
            scorer=WordBalance(tuple(sorted(up - down)), tuple(sorted(down - up))),
            positives=positives,
            negatives=negatives,
            development=development,
            test=test,
            damage_texts=tuple(self._texts(f"{name}/damage", NEUTRAL, DAMAGE_TEXTS)),
            contrast=trait.name,
            max_new_tokens=10,
        )

    def _contrast(self, trait: lx.Trait) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Questions of both forms up to a word between the one that states the trait and the act.

        A vector extracted after the act steers the other way.
        """

        def texts(pole: str) -> tuple[str, ...]:
            plan = Plan("question", trait=trait.name, pole=pole)
            rng = random.Random(f"{trait.name}/{pole}/{self.seed}")
            return tuple(
                _cut_at_a_word(
                    page.text[: page.text.index(" will ") + 6], page.text.index(" What does "), rng
                )
                for page in self._pages(f"{trait.name}/{pole}", plan, self.pairs)
            )

        return texts("positive"), texts("negative")

    # -- pages -------------------------------------------------------------------------------------

    def _stream(self, purpose: str, plan: Plan) -> Iterator[Page]:
        return _stream(purpose, plan, self.seed)

    def _pages(self, purpose: str, plan: Plan, count: int) -> list[Page]:
        stream = self._stream(purpose, plan)
        return [next(stream) for _ in range(count)]

    def _texts(self, purpose: str, plan: Plan, count: int) -> list[str]:
        return [page.text for page in self._pages(purpose, plan, count)]

    def _balanced(self, purpose: str, plan: Plan, count: int, taken: set[str] | None = None) -> list[Page]:
        taken = set() if taken is None else taken
        stream = self._stream(purpose, plan)
        wanted = {"A": (count + 1) // 2, "B": count // 2}
        chosen: list[Page] = []
        while len(chosen) < count:
            page = next(stream)
            if wanted[page.matching] and page.parts[0] not in taken:
                wanted[page.matching] -= 1
                taken.add(page.parts[0])
                chosen.append(page)
        return chosen

    def _items(
        self, name: str, plan: Plan, item: Callable[[Page], Item], taken: set[str] | None = None
    ) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        items: dict[str, Item] = {}
        wanted = sum(self.sizes)
        stream = islice(self._stream(f"{name}/items", plan), 1000 + 100 * wanted)
        for each in map(item, stream):  # distinct prompts: split by question
            if each.prompt not in (taken or ()):
                items.setdefault(each.prompt, each)
            if len(items) == wanted:
                break
        else:
            raise InvalidValue(
                f"suite.development + suite.test = {wanted}: the grammar has only {len(items)} distinct "
                f"prompts for {name}; lower them"
            )
        every = tuple(items.values())
        return every[: self.sizes[0]], every[self.sizes[0] :]


def _stream(purpose: str, plan: Plan, seed: int) -> Iterator[Page]:
    # One seed a purpose; the split "held_out" is never used in training.
    return pages(random.Random(f"suite/{seed}/{purpose}").getrandbits(62), "held_out", plan)


@cache
def _words(language: Language, seed: int) -> frozenset[str]:
    """The words of 400 stories. Writing them takes a quarter of a second."""
    stream = _stream(f"words/{language[:2]}", Plan("story", language, switches=False), seed)
    return frozenset(WORD.findall(" ".join(page.text for page in islice(stream, 400)).lower()))


def _request(page: Page, first: str = "") -> str:
    """The user's turn, starting with `first`, and the tag that the answer follows."""
    return f"{USER}{first}{page.parts[0]}{ASSISTANT}"


def _meeting(page: Page) -> int:
    """Index of the sentence that names the animal."""
    return next(i for i, sentence in enumerate(page.parts) if sentence.startswith("There "))


def _anywhere(page: Page, rng: random.Random) -> str:
    """Cut after the first sentence: language and case show from there on."""
    return _cut_at_a_word(" ".join(page.parts), len(page.parts[0]), rng)


def _after_the_meeting(page: Page, rng: random.Random) -> str:
    """Cut after the sentence that first mentions the animal."""
    known = " ".join(page.parts[: _meeting(page) + 1])
    return _cut_at_a_word(" ".join(page.parts), len(known), rng)


def _after_the_mood(page: Page, rng: random.Random) -> str | None:
    """Cut after the first sentence that shows the mood; None where only the last one does."""
    mood = lx.MOODS[page.plan.mood or "happy"]
    for index, sentence in enumerate(page.parts[:-1]):
        if any(f" {word}" in sentence for word in mood.adjectives):
            known = " ".join(page.parts[: index + 1])
            return _cut_at_a_word(" ".join(page.parts), len(known), rng)
    return None


def _cut_at_a_word(text: str, start: int, rng: random.Random) -> str:
    """The text up to a word drawn anywhere after `start`.

    Cuts at one kind of token would give a direction specific to that token, and a map fitted on all
    tokens transfers those badly (docs/lab.md).
    """
    spaces = [at for at, letter in enumerate(text) if letter == " " and at >= start]
    return text[: rng.choice(spaces)]
