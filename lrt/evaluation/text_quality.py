"""Whether a generated answer is text at all: its length, its variety, and stated rules for broken text.

A phrase that is sought can stand in broken text too: a steered model that repeats one French word scores as
French. An answer is degenerate where one of these rules holds, the first that does:

- `empty`: no letter and no digit.
- `garbled`: characters that are no text, hardly any letters or digits, or a mixture of scripts word by word.
- `loop`: one stretch of words or letters repeated without a break over half of the answer.
- `repetitive`: few different pairs of neighbouring words.

The thresholds hold for real prose, lists and code: `tests/evaluation/test_evaluation_text_quality.py`.
Fluent nonsense is not degenerate by these rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from unicodedata import category

import regex

from lrt.corpora.words import count_words, fold, pieces

Fault = Literal["empty", "garbled", "loop", "repetitive"]

LOOP_SHARE = 0.5  # of the answer's words (or letters) that one repeated stretch covers
LOOP_TIMES = 3  # how often a stretch of words stands there at least, one after the other
LOOP_WORDS = 6  # in the loop at least, so that "no, no, no" does not count
LOOP_LETTERS, LETTER_TIMES, LONGEST_LETTERS = 12, 6, 8  # the same of letters; the repeated stretch at most
DISTINCT = 0.4  # share of different pairs among neighbouring words below which an answer is repetitive
LEAST_PAIRS = 16  # below which that share says nothing
READABLE = 0.25  # share of letters and digits among visible characters below which a text is garbled
LEAST_VISIBLE = 16  # characters below which that share says nothing
NO_TEXT = 0.02  # share of replacement, control, private and unassigned characters
# scripts in a text, and changes of script per word; not counted at punctuation, as in lists of translations
SCRIPTS, SWITCHES, LEAST_SWITCHES = 3, 0.4, 5

_NO_TEXT = ("Cc", "Cn", "Co", "Cs")
_SPACES = "\t\n\r\f\v"
_SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Greek": r"\p{Greek}",
    "Cyrillic": r"\p{Cyrillic}",
    "Arabic": r"\p{Arabic}",
    "Hebrew": r"\p{Hebrew}",
    # Japanese and Korean mix these
    "EastAsian": r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}]",
    "Thai": r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]",
    "Indic": r"[\p{Devanagari}\p{Bengali}\p{Gujarati}\p{Gurmukhi}\p{Tamil}\p{Telugu}\p{Kannada}]",
}
_RUN_OF_SCRIPT = regex.compile("|".join(f"(?P<{name}>{chars}+)" for name, chars in _SCRIPTS.items()))
_BETWEEN_WORDS = regex.compile(r"[^\S\n]*")
_LETTER_OR_DIGIT = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_RULER = regex.compile(r"([^\w\s]|_)\1+")  # a line of one character, as in forms and tables


@dataclass(frozen=True)
class TextQuality:
    """One generated answer.

    words     Number of words (`lrt.corpora.words.count_words`).
    distinct  Share of different pairs among its pairs of neighbouring words (distinct-2, Li et al.,
              1510.03055); None with fewer than two words.
    fault     The rule by which it is degenerate; None for text.
    """

    words: int
    distinct: float | None
    fault: Fault | None

    @classmethod
    def of(cls, text: str) -> TextQuality:
        """The quality of an answer, without the thoughts before it."""
        words = pieces(fold(text))
        return cls(count_words(text), _distinct(words), _fault(text, words))


def degenerate_fault(text: str) -> Fault | None:
    """The rule by which an answer is degenerate; None for text."""
    return _fault(text, pieces(fold(text)))


def _fault(text: str, words: Sequence[str]) -> Fault | None:
    if not any(map(str.isalnum, text)):
        return "empty"
    if _is_garbled(text, len(words)):
        return "garbled"
    if _looped(words, LOOP_TIMES, LOOP_WORDS, len(words)) or _letters_loop(text):
        return "loop"
    if len(words) > LEAST_PAIRS and (_distinct(words) or 0.0) < DISTINCT:
        return "repetitive"
    return None


def _distinct(words: Sequence[str]) -> float | None:
    pairs = [*pairwise(words)]
    return len(set(pairs)) / len(pairs) if pairs else None


def _is_garbled(text: str, words: int) -> bool:
    whole = text.rstrip("\ufffd")  # the last character may be cut off with its tokens
    visible = [char for char in whole if not char.isspace()]
    if len(visible) < 2:
        return False
    strange = sum(
        char == "\ufffd" or (category(char) in _NO_TEXT and char not in _SPACES) for char in visible
    )
    if strange > 1 and strange / len(visible) > NO_TEXT:
        return True
    seen = [char for char in _RULER.sub(r"\1", whole) if not char.isspace()]
    readable = sum(char.isalnum() or category(char).startswith("M") for char in seen)
    if len(seen) >= LEAST_VISIBLE and readable / len(seen) < READABLE:
        return True
    runs = [*_RUN_OF_SCRIPT.finditer(whole)]
    switches = sum(
        one.lastgroup != other.lastgroup
        and _BETWEEN_WORDS.fullmatch(whole, one.end(), other.start()) is not None
        for one, other in pairwise(runs)
    )
    scripts = {run.lastgroup for run in runs}
    return len(scripts) >= SCRIPTS and switches >= max(LEAST_SWITCHES, SWITCHES * words)


def _letters_loop(text: str) -> bool:
    letters = "".join(_LETTER_OR_DIGIT.findall(fold(text)))
    # a digit is like no other, so that lines of a numbered list differ and numbers are no loops
    units = [at if char.isnumeric() else char for at, char in enumerate(letters)]
    return _looped(units, LETTER_TIMES, LOOP_LETTERS, LONGEST_LETTERS)


def _looped(units: Sequence[str | int], times: int, least: int, longest: int) -> bool:
    """Whether a stretch of at most `longest` units stands `times` times in a row or more, and that over at
    least `least` units and `LOOP_SHARE` of all."""
    needed = max(least, LOOP_SHARE * len(units))
    for period in range(1, min(longest, len(units) // times) + 1):
        run = 0
        for one, other in zip(units, units[period:], strict=False):
            run = run + 1 if one == other else 0
            if run + period >= max(needed, times * period):
                return True
    return False
