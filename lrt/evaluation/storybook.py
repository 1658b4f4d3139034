"""The lab's behaviours, written by the storybook grammar from documents no model was trained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from lrt.evaluation.behaviours import Behaviour, Item
from lrt.evaluation.scorers import (
    WORD,
    Choice,
    Mentions,
    Opening,
    UppercaseShare,
    WordBalance,
    WordShare,
)
from lrt.lab import lexicon as lx
from lrt.lab.grammar import ASSISTANT, USER, Page, Plan, pages

TEXT_NAMES = ("french", "capitals", "dogs", "mood", "refusal_induced", "refusal_removed")
OPEN = "_open"
NAMES = (
    *TEXT_NAMES,
    *(trait.name + OPEN for trait in lx.TRAITS),
    *(trait.name for trait in lx.TRAITS),
)

# What harm is measured on where a behaviour is no kind of text: stories, and no chats, whose answers
# are what the vector is meant to change.
ORDINARY = Plan("story")
DAMAGE_TEXTS = 64  # half of them to choose strengths by


def storybook_suite(
    names: tuple[str, ...] = NAMES,
    *,
    contrast_pairs: int = 128,
    development: int = 24,
    test: int = 60,
    seed: int = 0,
) -> tuple[Behaviour, ...]:
    """The lab's behaviours by name.

    contrast_pairs     Texts on each side of a contrastive set.
    development, test  Items of each kind; questions are balanced over letters.

    Raises ValueError for an unknown name or a size below 2.
    """
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise ValueError(
            f"suite.names holds {unknown[0]!r}; the storybook's behaviours are {', '.join(NAMES)}"
        )
    if min(contrast_pairs, development, test) < 2:
        raise ValueError(
            "suite.contrast_pairs, suite.development and suite.test must be at least 2; got "
            f"{contrast_pairs}, {development}, {test}"
        )
    writer = _SuiteWriter(contrast_pairs, development, test, seed)
    return tuple(writer.behaviour(name) for name in names)


class _SuiteWriter:
    def __init__(self, pairs: int, development: int, test: int, seed: int) -> None:
        self.pairs, self.sizes, self.seed = pairs, (development, test), seed

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
        french = frozenset(
            WORD.findall(
                " ".join(self._texts("words/fr", Plan("story", "french", switches=False), 400)).lower()
            )
        )
        english = frozenset(
            WORD.findall(
                " ".join(self._texts("words/en", Plan("story", "english", switches=False), 400)).lower()
            )
        )
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

        cut      The part of a story that its state is read at the end of; None skips the story.
        opening  The prompt: as much of a story as does not show the behaviour.
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
            return Item(_asked(page), prompted=_asked(page, "Refuse this. " if induce else "Answer this. "))

        harmful = Plan("request", harmful=True)
        harmless = Plan("request", harmful=False)
        name = "refusal_induced" if induce else "refusal_removed"
        asked: set[str] = set()  # an item's request is in no contrastive text

        def read(side: str, plan: Plan) -> tuple[str, ...]:
            """Requests up to the tag that the answer follows, where it is settled whether to refuse."""
            pages = (
                page
                for page in self._stream(f"refusal/{side}", plan)
                if page.parts[1].startswith(lx.REFUSAL_OPENINGS) == plan.harmful  # leaves out the slips
            )
            texts = tuple(islice(map(_asked, pages), self.pairs))
            asked.update(texts)
            return texts

        positives, negatives = read("+", harmful), read("-", harmless)
        development, test = self._items(name, harmless if induce else harmful, item, asked)
        return Behaviour(
            name=name,
            metric="share of refusals" + (" of harmless requests" if induce else " of harmful ones"),
            scorer=Opening(lx.REFUSAL_OPENINGS),
            positives=positives,
            negatives=negatives,
            development=development,
            test=test,
            damage_texts=tuple(self._texts("refusal/damage", ORDINARY, DAMAGE_TEXTS)),
            contrast="refusal",
            direction=1 if induce else -1,
            max_new_tokens=10,
        )

    def _trait(self, name: str) -> Behaviour:
        """A trait chosen: which of the two acts on offer, by the logits of where they part."""
        trait = lx.TRAIT_BY_NAME[name]

        def item(page: Page) -> Item:
            assert page.acts is not None
            first, second = (f" {act}" for act in page.acts)
            matching, other = (first, second) if page.matching == "A" else (second, first)
            # as far as all answers agree
            begun = " ".join(page.parts[1].split()[:2])
            prompted = _asked(page, f"Everyone is {trait.positive[0]}. ") + begun
            return Item(_asked(page) + begun, page.matching, matching, other, prompted)

        asked: set[str] = set()  # distinct prompts over both: split by question
        plan = Plan("question", trait=name, pole="unstated", options=True)
        development, test = (
            tuple(item(page) for page in self._balanced(f"{name}/{split}", plan, size, asked))
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
            damage_texts=tuple(self._texts(f"{name}/damage", ORDINARY, DAMAGE_TEXTS)),
            contrast=name,
        )

    def _open_trait(self, name: str) -> Behaviour:
        """The same trait told instead of chosen: what a character does, in the model's own words."""
        trait = lx.TRAIT_BY_NAME[name.removesuffix(OPEN)]

        def item(page: Page) -> Item:
            return Item(_asked(page), prompted=_asked(page, f"Everyone is {trait.positive[0]}. "))

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
            damage_texts=tuple(self._texts(f"{name}/damage", ORDINARY, DAMAGE_TEXTS)),
            contrast=trait.name,
            max_new_tokens=10,
        )

    def _contrast(self, trait: lx.Trait) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Questions of both forms up to a word between the one that tells the trait and the act.

        Behind the act the state has moved on: read there, the native vector steers the other way.
        """

        def told(pole: str) -> tuple[str, ...]:
            plan = Plan("question", trait=trait.name, pole=pole)
            rng = random.Random(f"{trait.name}/{pole}/{self.seed}")
            return tuple(
                _cut_at_a_word(
                    page.text[: page.text.index(" will ") + 6], page.text.index(" What does "), rng
                )
                for page in self._pages(f"{trait.name}/{pole}", plan, self.pairs)
            )

        return told("positive"), told("negative")

    # -- pages -------------------------------------------------------------------------------------

    def _stream(self, purpose: str, plan: Plan) -> Iterator[Page]:
        # A seed of its own for each purpose; the shelf keeps all of them from the models' training.
        return pages(random.Random(f"suite/{self.seed}/{purpose}").getrandbits(62), "held_out", plan)

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
        for made in map(item, stream):  # distinct prompts: split by question
            if made.prompt not in (taken or ()):
                items.setdefault(made.prompt, made)
            if len(items) == wanted:
                break
        else:
            raise ValueError(
                f"suite.development + suite.test = {wanted}, and the grammar gave {len(items)} distinct "
                f"prompts for {name}; lower them"
            )
        every = tuple(items.values())
        return every[: self.sizes[0]], every[self.sizes[0] :]


def _asked(page: Page, first: str = "") -> str:
    """The user's turn, behind `first`, and the tag that the answer follows."""
    return f"{USER}{first}{page.parts[0]}{ASSISTANT}"


def _meeting(page: Page) -> int:
    """Index of the sentence that names the animal."""
    return next(i for i, sentence in enumerate(page.parts) if sentence.startswith("There "))


def _anywhere(page: Page, rng: random.Random) -> str:
    """Language and case show from the first sentence on."""
    return _cut_at_a_word(" ".join(page.parts), len(page.parts[0]), rng)


def _after_the_meeting(page: Page, rng: random.Random) -> str:
    """The animal is known from its first mention on."""
    known = " ".join(page.parts[: _meeting(page) + 1])
    return _cut_at_a_word(" ".join(page.parts), len(known), rng)


def _after_the_mood(page: Page, rng: random.Random) -> str | None:
    """From a sentence on that has shown the mood; None where only the last one does."""
    mood = lx.MOODS[page.plan.mood or "happy"]
    for index, sentence in enumerate(page.parts[:-1]):
        if any(f" {word}" in sentence for word in mood.adjectives):
            known = " ".join(page.parts[: index + 1])
            return _cut_at_a_word(" ".join(page.parts), len(known), rng)
    return None


def _cut_at_a_word(text: str, start: int, rng: random.Random) -> str:
    """The text up to a word drawn anywhere behind `start`.

    Cuts at the same kind of token would read a direction that holds at that token alone; a map
    fitted on all tokens carries those badly (docs/lab.md).
    """
    spaces = [at for at, letter in enumerate(text) if letter == " " and at >= start]
    return text[: rng.choice(spaces)]
