"""The texts suite: kinds of text on real models: French, capitals, dogs, sentiment (paper, section 3.2)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Literal

from lrt.corpora import Unit, texts_of
from lrt.corpora.sources import hub_texts
from lrt.corpora.words import word_ends
from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour, Item
from lrt.evaluation.neutral_texts import up_to_word
from lrt.evaluation.scorers import Mentions, UppercaseShare, WordBalance, WordShare, WrittenScorer
from lrt.evaluation.suite_settings import check_names, check_sizes
from lrt.evaluation.text_words import (
    DOG_WORDS,
    DOGS,
    ENGLISH_WORDS,
    FRENCH_WORDS,
    JOYFUL,
    JOYFUL_WORDS,
    OTHERS,
    SORROWFUL,
    SORROWFUL_WORDS,
    Sentences,
)
from lrt.models.prompts import render_chat

NAMES = ("french", "capitals", "dogs", "sentiment")
LEAST_WORDS, MOST_WORDS = 12, 48  # of a contrastive passage


@dataclass(frozen=True)
class Texts:
    """Kinds of text as a suite.

    kind             `texts`.
    development, test  Prompts that choose strengths, and that are reported.
    names            Of `french`, `capitals`, `dogs`, `sentiment`.
    french, english  Text files or folders, or data sets of the hub (`org/name:CONFIG`, field `text`): French
                     against English passages, upper-cased against plain English ones. Dogs and sentiment
                     need none.
    unit             One document of these files. Use the corpus's unit, so that decontamination matches a
                     passage with its document.
    contrast_pairs   Texts on each side.
    continuation     Tokens that the model generates after a prompt.
    damage_texts     Texts of the kind on which damage is measured, half of them to choose strengths.
    seed             Draws passages, sentences and prompts.

    Raises InvalidValue for an unknown or repeated name, missing files, or a size out of range.
    """

    kind: Literal["texts"] = "texts"
    names: tuple[str, ...] = NAMES
    french: tuple[str, ...] = ()
    english: tuple[str, ...] = ()
    unit: Unit = "paragraph"
    contrast_pairs: int = 128
    development: int = 24
    test: int = 60
    continuation: int = 40
    damage_texts: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        check_names(self.names, NAMES, "texts")
        for name, needed in (("french", ("french", "english")), ("capitals", ("english",))):
            for files in needed:
                if name in self.names and not getattr(self, files):
                    raise InvalidValue(
                        f"{files}=[] of a texts suite: {name} needs text files; name some, or remove {name} "
                        "from names"
                    )
        check_sizes(self, "texts", "continuation")
        if self.damage_texts < 2:
            raise InvalidValue(
                f"damage_texts={self.damage_texts} of a texts suite must be at least 2: one to choose "
                "strengths, one to report damage"
            )


@dataclass(frozen=True)
class _Contrast:
    """Prompts and scorer of one kind of text."""

    metric: str
    scorer: WrittenScorer
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    damage: tuple[str, ...]
    description: str  # as a plain prompt asks for it


def texts_suite(settings: Texts, tokenizer: Any = None) -> tuple[Behaviour, ...]:
    """The behaviours named in the settings. All items are the same neutral English beginnings.

    Contrastive prompts are cut at a word drawn anywhere after the one that states the kind (half of those on
    dogs right there): cut at one kind of token alone, the vector would be specific to that token.

    tokenizer  The plain prompt asks for the kind of text in its chat template, if it has one; otherwise in a
               line before the beginning.

    Raises InvalidValue for too few passages or beginnings, CorpusError (of `lrt.corpora`) for files that
    cannot be read.
    """
    makers: dict[str, Callable[[Texts], _Contrast]] = {
        "french": _french,
        "capitals": _capitals,
        "dogs": _dogs,
        "sentiment": _sentiment,
    }
    prompts = openings(settings.development + settings.test, settings.seed)

    def prompted(prompt: str, description: str) -> str:
        if tokenizer is None or not tokenizer.chat_template:
            return f"Everything from here on is {description}.\n\n{prompt}"
        request = f"Go on with this text so that all of it is {description}:\n\n{prompt}"
        return render_chat(tokenizer, request)

    def behaviour(name: str) -> Behaviour:
        made = makers[name](settings)
        items = tuple(Item(prompt, prompted=prompted(prompt, made.description)) for prompt in prompts)
        return Behaviour(
            name=name,
            metric=made.metric,
            scorer=made.scorer,
            positives=made.positives,
            negatives=made.negatives,
            development=items[: settings.development],
            test=items[settings.development :],
            damage_texts=made.damage,
            max_new_tokens=settings.continuation,
        )

    return tuple(map(behaviour, settings.names))


def _french(settings: Texts) -> _Contrast:
    wanted, rng = settings.contrast_pairs, random.Random(f"french/{settings.seed}")
    french = passages(settings.french, settings.unit, wanted + settings.damage_texts, rng, "french")
    english = passages(settings.english, settings.unit, wanted, rng, "english")
    return _Contrast(
        "share of French words",
        WordShare(FRENCH_WORDS, ENGLISH_WORDS),
        tuple(_cut(text, rng) for text in french[:wanted]),
        tuple(_cut(text, rng) for text in english),
        french[wanted:],
        "in French",
    )


def _capitals(settings: Texts) -> _Contrast:
    wanted, rng = settings.contrast_pairs, random.Random(f"capitals/{settings.seed}")
    english = passages(settings.english, settings.unit, wanted + settings.damage_texts, rng, "english")
    cut = tuple(_cut(text, rng) for text in english[:wanted])
    return _Contrast(
        "share of capital letters",
        UppercaseShare(),
        tuple(text.upper() for text in cut),
        cut,
        tuple(text.upper() for text in english[wanted:]),
        "IN CAPITAL LETTERS",
    )


def _dogs(settings: Texts) -> _Contrast:
    # one word states the kind: where no text ends with it, the vector hardly makes a model write it
    positives, negatives, damage = _own(settings, "dogs", DOGS, OTHERS, half_at_once=True)
    return _Contrast(
        "share of continuations that mention a dog",
        Mentions(DOG_WORDS),
        positives,
        negatives,
        damage,
        "about dogs",
    )


def _sentiment(settings: Texts) -> _Contrast:
    positives, negatives, damage = _own(settings, "sentiment", JOYFUL, SORROWFUL, half_at_once=False)
    return _Contrast(
        "joyful minus sorrowful words, over both",
        WordBalance(JOYFUL_WORDS, SORROWFUL_WORDS),
        positives,
        negatives,
        damage,
        "joyful and kind",
    )


def _own(
    settings: Texts, name: str, positive: Sentences, negative: Sentences, half_at_once: bool
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Positives, negatives and damage texts of the project's own sentences.

    The two sides differ in nothing but the words that state the kind.

    half_at_once  End every second text with the words that state the kind.
    """
    rng = random.Random(f"{name}/{settings.seed}")
    wanted = settings.contrast_pairs + settings.damage_texts
    sides = []
    for sentences in (positive, negative):
        made = list(sentences.all())
        if len(made) < wanted:
            raise InvalidValue(
                f"contrast_pairs={settings.contrast_pairs} of a texts suite: {name} has {len(made)} "
                f"sentences a side, {settings.damage_texts} of them for damage; lower it"
            )
        random.Random(f"{name}/{settings.seed}/order").shuffle(made)  # the same order on both sides
        sides.append(made)
    cut = [
        tuple(
            text[:known] if half_at_once and index % 2 else _cut(text, rng, known)
            for index, (text, known) in enumerate(side[: settings.contrast_pairs])
        )
        for side in sides
    ]
    return cut[0], cut[1], tuple(text for text, _ in sides[0][settings.contrast_pairs : wanted])


def passages(
    paths: Sequence[str], unit: Unit, count: int, rng: random.Random, setting: str
) -> tuple[str, ...]:
    """Different documents of at least twice `LEAST_WORDS` words, cut after `MOST_WORDS` words.

    Raises InvalidValue, naming the setting, for too few.
    """
    documents = dict.fromkeys(text.strip() for path in paths for text in _texts(path, unit, count))
    long = (text for text in documents if len([*word_ends(text)]) >= 2 * LEAST_WORDS)
    cut = list(dict.fromkeys(up_to_word(text, MOST_WORDS) for text in long))
    if len(cut) < count:
        raise InvalidValue(
            f"{setting} of a texts suite: {', '.join(paths)} have {len(cut)} passages ({unit}s of "
            f"{2 * LEAST_WORDS} words or more), and {count} are needed; name more files, use another unit, "
            "or lower contrast_pairs or damage_texts"
        )
    return tuple(rng.sample(cut, count))


def _texts(path: str, unit: Unit, count: int) -> Iterator[str]:
    streamed = hub_texts(path)
    if streamed is None:
        return texts_of([path], unit)
    # hub data sets may have millions of rows: read no more than a draw needs
    return (document.text for document in islice(streamed, 20 * count) if not document.excluded)


def _cut(text: str, rng: random.Random, known: int = 0) -> str:
    """The text up to a word drawn after `known` characters, or else after `LEAST_WORDS` words."""
    ends = list(word_ends(text))
    allowed = [end for end in ends[(0 if known else LEAST_WORDS - 1) :] if end >= known]
    return text[: rng.choice(allowed)]


def openings(count: int, seed: int = 0) -> tuple[str, ...]:
    """Different neutral English beginnings of a text.

    Raises InvalidValue for more than there are.
    """
    every = [f"{when}, {who} {did}" for when, who, did in product(WHEN, WHO, DID)]
    if count > len(every):
        raise InvalidValue(
            f"development + test = {count} of a texts suite: there are {len(every)} prompts; lower them"
        )
    return tuple(random.Random(f"openings/{seed}").sample(every, count))


WHEN = (
    "On Monday morning",
    "Just before noon",
    "Late in the afternoon",
    "That evening",
    "A few days later",
    "At the end of the week",
    "Early the next day",
    "On the way home",
)
WHO = (
    "my neighbour",
    "the teacher",
    "Anna",
    "the two brothers",
    "our guide",
    "the man from the shop",
    "Thomas",
)
DID = (
    "opened the door and saw",
    "walked down to the river and",
    "told us about",
    "looked out of the window at",
    "wrote a letter that began",
    "came back with",
    "sat down and started to",
    "stopped at the corner, where",
)
