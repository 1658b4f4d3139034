"""What a text or a pair of answers scores: a number per item, read off words, letters or logits.

A scorer is data, so a behaviour can be written to a file and read back with its measure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

WORD = re.compile(r"[^\W\d_]+")


def _words(words: Sequence[str]) -> tuple[str, ...]:
    """The words in lower case; raises ValueError for what no text could hold as one word."""
    for word in words:
        if not WORD.fullmatch(word):
            raise ValueError(f"{word!r} is not one word of letters, so it would never be found")
    return tuple(word.lower() for word in words)


class TextScorer(Protocol):
    """Scores a generated text; the range is the scorer's own and stated in its docstring."""

    def score(self, text: str) -> float: ...


@dataclass(frozen=True)
class WordShare:
    """Share of `words` among the words that are in `words` or `others`; 0 where there are none. In [0, 1]."""

    words: tuple[str, ...]
    others: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _words(self.words))
        object.__setattr__(self, "others", _words(self.others))

    def score(self, text: str) -> float:
        found = WORD.findall(text.lower())
        words, others = set(self.words), set(self.others)
        ours = sum(word in words for word in found)
        theirs = sum(word in others for word in found)
        return ours / (ours + theirs) if ours + theirs else 0.0


@dataclass(frozen=True)
class WordBalance:
    """(positive - negative) / (positive + negative) words; 0 where there are none. In [-1, 1]."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "positive", _words(self.positive))
        object.__setattr__(self, "negative", _words(self.negative))

    def score(self, text: str) -> float:
        found = WORD.findall(text.lower())
        positive, negative = set(self.positive), set(self.negative)
        up = sum(word in positive for word in found)
        down = sum(word in negative for word in found)
        return (up - down) / (up + down) if up + down else 0.0


@dataclass(frozen=True)
class Mentions:
    """1 where any of `words` occurs as a whole word, whatever its case; else 0."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _words(self.words))

    def score(self, text: str) -> float:
        return float(not set(self.words).isdisjoint(WORD.findall(text.lower())))


@dataclass(frozen=True)
class UppercaseShare:
    """Share of upper-case letters among the letters; 0 where there are none. In [0, 1]."""

    def score(self, text: str) -> float:
        letters = [letter for letter in text if letter.isalpha()]
        return sum(letter.isupper() for letter in letters) / len(letters) if letters else 0.0


@dataclass(frozen=True)
class Opening:
    """1 where the text opens with one of `phrases`, whatever its case; else 0.

    Anchored: a phrase further on does not count, or a text that merely speaks of it would.
    Raises ValueError for an empty phrase, with which every text opens.
    """

    phrases: tuple[str, ...]

    def __post_init__(self) -> None:
        if not all(phrase.strip() for phrase in self.phrases):
            raise ValueError("Opening holds an empty phrase, with which every text opens")

    def score(self, text: str) -> float:
        start = text.lstrip(" \n\"'*").casefold()
        return float(start.startswith(tuple(phrase.casefold() for phrase in self.phrases)))


@dataclass(frozen=True)
class Choice:
    """Propensity: `logit(matching answer) - logit(other answer)` after the prompt (paper, 3.4).

    In nats, unbounded. The answers' probabilities are kept beside it.
    """


Scorer = WordShare | WordBalance | Mentions | UppercaseShare | Opening | Choice
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (WordShare, WordBalance, Mentions, UppercaseShare, Opening, Choice)
}


def scorer_to_data(scorer: Scorer) -> dict[str, Any]:
    """The scorer as plain data, its kind under `kind`."""
    return {"kind": type(scorer).__name__, **asdict(scorer)}


def scorer_from_data(data: Mapping[str, Any]) -> Scorer:
    """The scorer that `scorer_to_data` wrote; raises ValueError naming what does not fit."""
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"scorer kind {kind!r} is unknown; allowed: {', '.join(sorted(_KINDS))}")
    for key, value in fields.items():
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"scorer {kind}: `{key}` must be a list of texts; got {value!r}")
    try:
        scorer: Scorer = _KINDS[kind](**{key: tuple(value) for key, value in fields.items()})
    except TypeError as error:
        raise ValueError(f"scorer {kind} does not fit its settings {fields}: {error}") from error
    return scorer
