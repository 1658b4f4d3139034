"""The raw rows of a study as arrays over its items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lrt.evaluation.behaviours import ItemSplit
from lrt.evaluation.measuring import Measurement
from lrt.evaluation.statistics import Array


class Record:
    """One split's rows of a study as arrays, items always in the same order.

    of  The column that is read; rows that lack it are left out.
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
        self.items = list(self.values["none", 0, 0.0])
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
