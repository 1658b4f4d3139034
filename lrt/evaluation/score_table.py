"""The raw rows of a study as arrays over its items."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from lrt.evaluation.behaviours import ItemSplit
from lrt.evaluation.measuring import Measurement
from lrt.evaluation.statistics import Array


class ScoreMissing(ValueError):
    """Every item lacks a score in some cell, so that nothing can be compared."""

    def __init__(self, behaviour: str, split: ItemSplit) -> None:
        super().__init__(
            f"no {split} item of {behaviour!r} has a score in every cell: its scorer (a judge?) gave no "
            "usable rating; fix its question, role or scale, or take another scorer as the main one and "
            "name this one under `extra_scorers`"
        )


def unscored(rows: Iterable[Measurement]) -> set[str]:
    """Items that have no score in some cell."""
    return {row.item for row in rows if math.isnan(row.value)}


class ScoreTable:
    """One split's rows of a study as arrays, items always in the same order.

    of  The column that is read; rows that lack it are left out.

    An item that has no score in one of its cells (nan: a judge that gave none) is left out of all of
    them, or cells would be compared over different items; `unscored` counts these.
    """

    def __init__(
        self,
        rows: Sequence[Measurement],
        split: ItemSplit = "test",
        of: Literal["value", "probability"] = "value",
    ) -> None:
        self.values: dict[tuple[str, int, float], dict[str, float]] = defaultdict(dict)
        self.keys: dict[str, str] = {}
        for row in rows:
            value = row.value if of == "value" else row.probability
            if row.split == split and value is not None:
                self.values[row.condition, row.draw, row.strength][row.item] = value
                self.keys[row.item] = row.key
        lacking = unscored(row for row in rows if row.split == split)
        self.items = [item for item in self.values["none", 0, 0.0] if item not in lacking]
        self.unscored = len(lacking)
        self.item_keys = [self.keys[item] for item in self.items]

    def column(self, condition: str, strength: float, draw: int = 0) -> Array | None:
        """`[items]` scores of one cell, or None where it was not run on every item. Strength 0 is
        `none`'s."""
        if strength == 0 and condition not in ("source", "prompt"):
            condition, draw = "none", 0
        found = self.values.get((condition, draw, strength))
        if not found or not all(item in found for item in self.items):
            return None
        return np.array([found[item] for item in self.items])

    def curve(self, condition: str, strengths: Sequence[float], draw: int = 0) -> Array | None:
        """`[strengths, items]`, or None where the whole curve was not run."""
        columns = [self.column(condition, s, draw) for s in strengths]
        return None if any(c is None for c in columns) else np.array(columns)

    def draws(self, condition: str, strength: float) -> list[Array]:
        """`[items]` scores of every draw at one strength."""
        numbers = sorted(d for c, d, s in self.values if c == condition and s == strength)
        return [c for d in numbers if (c := self.column(condition, strength, d)) is not None]
