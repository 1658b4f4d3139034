"""The number that a generated text gives as its answer, against the item's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from lrt.errors import InvalidValue

TOLERANCE = Fraction(1, 10_000)  # relative: a third may be written as 0.3333
STATED = re.compile(r"answer\b(?:\s*(?:is|was|=|:)|\W{0,4}$)|\\boxed\s*\{|####", re.IGNORECASE | re.MULTILINE)
"""What stands before an answer."""
# a sign where none of a subtraction; digits in groups or not; not the end of a name (x1)
NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]])[-+\u2212][$£€¥]?)?(?<![\w.])"
    r"(?P<digits>\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)|\d+)(?P<decimals>\.\d+)?"
    r"(?:\s*/\s*(?P<divisor>\d+(?:\.\d+)?))?"
)


def numbers(text: str) -> list[Fraction]:
    """The numbers of a text in order: `1,234.50`, `-7`, `3/4`. A unit or currency sign beside one is ignored.

    Digits within a name (`x1`) and number words are none.
    """
    return [value for match in NUMBER.finditer(text) if (value := _value(match)) is not None]


def _value(match: re.Match[str]) -> Fraction | None:
    whole = re.sub(r"[,{}]", "", match["digits"])
    value = Fraction(whole + (match["decimals"] or ""))
    if match["divisor"] is not None:
        divisor = Fraction(match["divisor"])
        if not divisor:
            return None
        value /= divisor
    return -value if (match["sign"] or "+")[0] in "-\u2212" else value


def stated_number(text: str) -> Fraction | None:
    """The number that a text gives as its answer: the one stated last, by `STATED`; else its last number.

    Of a stated sum (`the answer is 3 + 4 = 7`) it is the result. None where there is no number.
    """
    for match in reversed([*STATED.finditer(text)]):
        statement = text[match.end() :].lstrip(" \n").split("\n", 1)[0]
        sentence = re.split(r"[.!?](?=\s|$)", statement, maxsplit=1)[0]
        if found := numbers(sentence.rpartition("=")[2]) or numbers(sentence):
            return found[0]
    found = numbers(text)
    return found[-1] if found else None


@dataclass(frozen=True)
class NumericAnswer:
    """1 where the number that a text gives as its answer (`stated_number`) is its item's `matching`; else 0.

    stops  The text is read up to the first of these: base models go on with a question of their own.

    Raises InvalidValue for an empty stop, with which every text begins.
    """

    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)
    version: ClassVar[int] = 1
    stops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(self.stops):
            raise InvalidValue(
                "NumericAnswer: `stops` holds an empty text, before which nothing stands; remove it"
            )

    def score_all(self, texts: Sequence[str], items: Sequence[Any]) -> list[float]:
        return [float(self._gives(text, item.matching)) for text, item in zip(texts, items, strict=True)]

    def _gives(self, text: str, matching: str) -> bool:
        given, right = stated_number(self._read(text)), stated_number(matching)
        if right is None:
            raise ValueError(f"the item's answer {matching!r} has no number")
        return given is not None and abs(given - right) <= TOLERANCE * abs(right)

    def _read(self, text: str) -> str:
        return text[: min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=None)]
