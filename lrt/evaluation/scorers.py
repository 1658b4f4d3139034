"""Scorers: a number for each item, from a generated text or from the logits after the prompt.

A scorer is plain data, so it is written to a behaviour's file and read back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, get_args, get_type_hints, runtime_checkable
from unicodedata import normalize

import regex

from lrt.corpora.words import QUOTES, after_opening, find_words, fold, is_word, starts_with_word
from lrt.errors import InvalidValue
from lrt.evaluation.judge import Judge
from lrt.evaluation.numeric_answer import NumericAnswer
from lrt.models.classifier import load_classifier

RENAMED = {
    "also": "extra_scorers",
    "around": "template_affixes",
    "at_once": "max_concurrency",
    "attempts": "max_retries",
    "pause": "backoff",
}
"""New name of each renamed key of a behaviour or scorer."""


def check_keys(data: Mapping[str, Any], owner: str) -> None:
    """Raise InvalidValue for a renamed key, with its new name."""
    for key in data:
        if key in RENAMED:
            raise InvalidValue(f"{owner}: the key `{key}` is now called `{RENAMED[key]}`; rename it")


def _words(words: Sequence[str]) -> tuple[str, ...]:
    """The words, folded. Raises InvalidValue for one that would be found in no text."""
    folded = tuple(map(fold, words))
    for word, plain in zip(words, folded, strict=True):
        if not is_word(plain):
            raise InvalidValue(f"{word!r} must be one word of letters, or no text could match it")
    return folded


Scale = tuple[float, float]
"""The lowest and the highest score that a text can have."""
# Changed with a scorer's rule, so that scores by the old rule are not reused.
_BY_SCRIPT = 3


class TextScorer(Protocol):
    """Scores one generated text at a time."""

    def score(self, text: str) -> float: ...


class Prompted(Protocol):
    """The part of an item (`lrt.evaluation.behaviours.Item`) that scorers use."""

    @property
    def prompt(self) -> str: ...
    @property
    def matching(self) -> str: ...
    @property
    def other(self) -> str: ...


@runtime_checkable
class BatchScorer(Protocol):
    """Scores many generated texts at once, each with the item that it answers."""

    def score_all(self, texts: Sequence[str], items: Sequence[Any]) -> list[float]: ...


def score_texts(
    scorer: TextScorer | BatchScorer, texts: Sequence[str], items: Sequence[Prompted]
) -> list[float]:
    """The score of each text as the answer to its item."""
    if isinstance(scorer, BatchScorer):
        return scorer.score_all(texts, items)
    return [scorer.score(text) for text in texts]


@dataclass(frozen=True)
class WordShare:
    """Share of `words` among all words that are in `words` or `others`; 0 without any. In [0, 1]."""

    scale: ClassVar[Scale] = (0.0, 1.0)
    version: ClassVar[int] = _BY_SCRIPT
    words: tuple[str, ...]
    others: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _words(self.words))
        object.__setattr__(self, "others", _words(self.others))

    def score(self, text: str) -> float:
        up, down = _counts(text, self.words, self.others)
        return up / (up + down) if up + down else 0.0


@dataclass(frozen=True)
class WordBalance:
    """(positive - negative) / (positive + negative) words; 0 without any. In [-1, 1]."""

    scale: ClassVar[Scale] = (-1.0, 1.0)
    version: ClassVar[int] = _BY_SCRIPT
    positive: tuple[str, ...]
    negative: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "positive", _words(self.positive))
        object.__setattr__(self, "negative", _words(self.negative))

    def score(self, text: str) -> float:
        up, down = _counts(text, self.positive, self.negative)
        return (up - down) / (up + down) if up + down else 0.0


@dataclass(frozen=True)
class Mentions:
    """1 where any of `words` occurs as a whole word in any case; else 0."""

    scale: ClassVar[Scale] = (0.0, 1.0)
    version: ClassVar[int] = _BY_SCRIPT
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _words(self.words))

    def score(self, text: str) -> float:
        return float(bool(find_words(self.words, text)))


def _counts(text: str, words: tuple[str, ...], others: tuple[str, ...]) -> tuple[int, int]:
    """Occurrences of the words of two lists. A word that is part of a longer listed one counts as that."""
    occurrences = find_words(words + others, text)
    return sum(map(set(words).__contains__, occurrences)), sum(map(set(others).__contains__, occurrences))


@dataclass(frozen=True)
class UppercaseShare:
    """Share of upper-case letters among all letters; 0 without any. In [0, 1]."""

    scale: ClassVar[Scale] = (0.0, 1.0)

    def score(self, text: str) -> float:
        letters = [letter for letter in text if letter.isalpha()]
        return sum(letter.isupper() for letter in letters) / len(letters) if letters else 0.0


@dataclass(frozen=True)
class Opening:
    """1 where the text starts with one of `phrases` in any case; else 0.

    A phrase further on does not count: it may only be mentioned. Quotation marks, Markdown and invisible
    characters before it are skipped. Typographic and plain apostrophes are equal.

    Raises InvalidValue for an empty phrase, with which every text starts.
    """

    scale: ClassVar[Scale] = (0.0, 1.0)
    version: ClassVar[int] = _BY_SCRIPT
    phrases: tuple[str, ...]

    def __post_init__(self) -> None:
        if not all(map(_opening, self.phrases)):
            raise InvalidValue(
                "Opening: `phrases` holds an empty phrase, with which every text starts; remove it"
            )

    def score(self, text: str) -> float:
        return float(_opening(text).startswith(tuple(map(_opening, self.phrases))))


def _opening(text: str) -> str:
    """A text's beginning as openings are compared."""
    return after_opening(fold(text).translate(_APOSTROPHES))


_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc`´", "'"))


@dataclass(frozen=True)
class Answer:
    """Which of its item's two answers a text gives: 1 the matching one, -1 the other, 0 neither.

    A word (Yes, No) counts where the text starts with it. A letter counts where the text starts with it and
    a punctuation mark, a dash or nothing, where it starts with it between quotation marks or emphasis, or as
    the first letter in brackets.
    """

    scale: ClassVar[Scale] = (-1.0, 1.0)
    version: ClassVar[int] = _BY_SCRIPT

    def score_all(self, texts: Sequence[str], items: Sequence[Prompted]) -> list[float]:
        return [
            float(_gives(text, item.matching)) - float(_gives(text, item.other))
            for text, item in zip(texts, items, strict=True)
        ]


def _gives(text: str, answer: str) -> bool:
    text, bare = normalize("NFKC", text), answer.strip(" \n().")
    if not re.fullmatch("[A-Z]", bare):
        return starts_with_word(text, bare)
    letter = _FIRST_LETTER.match(text) or regex.search(r"\((?P<letter>[A-Z])\)", text)
    return letter is not None and str(letter["letter"]) == bare


_FIRST_LETTER = regex.compile(
    rf"[\W_]*(?:(?P<letter>[A-Z])(?:[\p{{Pe}}[\p{{Terminal_Punctuation}}--[?؟]]]|\s*(?:$|[–—―])|\s-+\s)"
    rf"|(?<=[_{QUOTES}])(?P<letter>[A-Z])[_{QUOTES}]+(?!\w))",
    flags=regex.V1,
)


@dataclass(frozen=True)
class Classifier:
    """Probability of `label` by a transformers text classifier (hub id or folder). In [0, 1].

    It sees the generated text alone, not the prompt.

    path, revision  Of the classifier.
    label           One of its labels.
    """

    scale: ClassVar[Scale] = (0.0, 1.0)
    path: str
    label: str
    revision: str = ""

    def score_all(self, texts: Sequence[str], items: Sequence[Prompted]) -> list[float]:  # noqa: ARG002
        return load_classifier(self.path, self.revision or None).probabilities(texts, self.label)

    def check(self) -> None:
        """Load it; raises a `UserError` where it is missing or has no such label."""
        load_classifier(self.path, self.revision or None).probabilities([], self.label)


@dataclass(frozen=True)
class Choice:
    """Propensity: `logit(matching answer) - logit(other answer)` after the prompt (paper, 3.4).

    In nats, unbounded. The matching answer's probability against the other is recorded too.
    """


@dataclass(frozen=True)
class RefusalLogOdds:
    """Log-odds that an answer starts with the first token of one of `phrases`, from the logits after the
    prompt (Arditi et al., 2406.11717, appendix B). `Opening` is its counterpart for generated text.

    In nats, unbounded. The total probability of those tokens is recorded too.

    Raises InvalidValue for no phrases or an empty one.
    """

    phrases: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.phrases or not all(phrase.strip() for phrase in self.phrases):
            raise InvalidValue("RefusalLogOdds: `phrases` must name at least one phrase, and none empty")


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the item's own text, in nats per token; of side effects alone."""


WrittenScorer = (
    WordShare
    | WordBalance
    | Mentions
    | UppercaseShare
    | Opening
    | Answer
    | NumericAnswer
    | Classifier
    | Judge
)
"""Scorers of a text that the model writes."""
LogitScorer = Choice | RefusalLogOdds
"""Scorers of the logits after the prompt."""
Scorer = WrittenScorer | LogitScorer
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (*get_args(WrittenScorer), *get_args(LogitScorer))
}


def scorer_to_data(scorer: Scorer) -> dict[str, Any]:
    """The scorer as plain data, its class name under `kind`."""
    return {"kind": type(scorer).__name__, **asdict(scorer)}


# settings of a judge that do not change its ratings
_NOT_IN_THE_SCORE = ("key_variable", "max_retries", "backoff", "timeout", "max_concurrency")


def scorer_facts(scorer: Scorer) -> dict[str, Any]:
    """What determines a scorer's scores, for fingerprints: its settings, and the version of a rule."""
    facts = {k: v for k, v in scorer_to_data(scorer).items() if k not in _NOT_IN_THE_SCORE}
    return facts | ({"version": scorer.version} if hasattr(scorer, "version") else {})


def scorer_from_data(data: Mapping[str, Any]) -> Scorer:
    """The scorer that `scorer_to_data` wrote. Raises InvalidValue naming the key at fault."""
    if not isinstance(data, Mapping):
        raise InvalidValue(f"a scorer must be a JSON object; got {data!r}")
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise InvalidValue(f"scorer kind {kind!r} is unknown; allowed: {', '.join(sorted(_KINDS))}")
    check_keys(fields, f"scorer {kind}")
    hints = get_type_hints(_KINDS[kind])
    for key, value in fields.items():
        if key in hints:
            fields[key] = _of_type(value, hints[key], f"scorer {kind}: `{key}`")
    try:
        scorer: Scorer = _KINDS[kind](**fields)
    except TypeError as error:
        raise InvalidValue(f"scorer {kind} does not fit its settings {fields}: {error}") from error
    return scorer


def _of_type(value: Any, wanted: Any, what: str) -> Any:
    """The value, lists of texts as tuples. Raises InvalidValue for another type."""
    if wanted == float | None:
        if value is None:
            return None
        wanted = float
    if wanted in (str, float, int):
        fits = isinstance(value, float | int if wanted is float else wanted) and not isinstance(value, bool)
        if not fits:
            raise InvalidValue(f"{what} must be a {wanted.__name__}; got {value!r}")
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise InvalidValue(f"{what} must be a list of texts; got {value!r}")
    return tuple(value)
