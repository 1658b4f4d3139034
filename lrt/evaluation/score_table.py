"""The measurements of a study as arrays over its items."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import ItemSplit
from lrt.evaluation.measuring import Measurement
from lrt.evaluation.statistics import Array


class ScoreMissing(InvalidValue):
    """No item has a score under every condition, so nothing can be compared."""

    def __init__(self, behaviour: str, split: ItemSplit) -> None:
        super().__init__(
            f"no {split} item of {behaviour!r} has a score under every condition. Where the texts end within "
            "the model's thoughts, turn these off (pair.template_kwargs) or raise the number of tokens "
            "(suite.answer_tokens). Where a judge returned no usable rating, fix its question, role or "
            "scale; or use another main scorer and list this one under `extra_scorers`"
        )


def unscored(rows: Iterable[Measurement]) -> set[str]:
    """Ids of items without a score under some condition."""
    return {row.item for row in rows if math.isnan(row.value)}


class ScoreTable:
    """One split's measurements as arrays over items, always in the same order.

    of  The field that is read; measurements without it are skipped.

    An item without a score under one condition (nan: a judge gave none) is excluded under all, so that
    conditions are compared over the same items; `unscored` counts these.
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
        missing = unscored(row for row in rows if row.split == split)
        self.items = [item for item in self.values["none", 0, 0.0] if item not in missing]
        self.unscored = len(missing)
        self.item_keys = [self.keys[item] for item in self.items]

    def column(self, condition: str, strength: float, draw: int = 0) -> Array | None:
        """`[items]` scores under one condition, or None where it was not run on every item.

        Strength 0 is the unsteered model's, except for `source` and `prompt`.
        """
        if strength == 0 and condition not in ("source", "prompt"):
            condition, draw = "none", 0
        scores = self.values.get((condition, draw, strength))
        if not scores or not all(item in scores for item in self.items):
            return None
        return np.array([scores[item] for item in self.items])

    def curve(self, condition: str, strengths: Sequence[float], draw: int = 0) -> Array | None:
        """`[strengths, items]`, or None where the whole curve was not run."""
        columns = [self.column(condition, s, draw) for s in strengths]
        return None if any(c is None for c in columns) else np.array(columns)

    def draws(self, condition: str, strength: float) -> list[Array]:
        """`[items]` scores of every draw at one strength."""
        numbers = sorted(d for c, d, s in self.values if c == condition and s == strength)
        return [c for d in numbers if (c := self.column(condition, strength, d)) is not None]

    def draw_numbers(self, condition: str) -> list[int]:
        """The draws of a condition that were run at any strength."""
        return sorted({d for c, d, _ in self.values if c == condition})
