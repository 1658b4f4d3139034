"""Measuring in batches that a journal stores, so that a stopped run resumes at the next batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lrt.evaluation.behaviours import Behaviour, Item, ItemSplit
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import (
    Damage,
    Measured,
    Measurement,
    SteerableModel,
    SteeringCondition,
    damage,
    item_batches,
    measure,
)

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ResumableMeasuring:
    """Settings under which a behaviour's items are measured, and the journal that stores the batches.

    progress  Called with the number of rows (item x condition) after each batch.
    """

    behaviour: Measured
    split: ItemSplit
    temperature: float
    max_rows: int
    progress: Progress | None
    journal: Journal

    def measured(
        self,
        label: str,
        model: SteerableModel,
        items: Sequence[Item],
        conditions: Sequence[SteeringCondition],
        item_ids: Sequence[str] | None = None,
    ) -> list[Measurement]:
        """`measure` in batches of prompts of similar length, which saves padding; the journal stores each.

        label  Names the batches in the journal, together with their items.
        """
        rows: list[Measurement] = []
        order = sorted(range(len(items)), key=lambda i: len(items[i].prompt))
        for some in item_batches(len(items), len(conditions), self.max_rows):

            def make(some: slice = some) -> list[Measurement]:
                return measure(
                    model.lm,
                    model.layer,
                    self.behaviour,
                    self.split,
                    [items[i] for i in order[some]],
                    conditions,
                    temperature=self.temperature,
                    max_rows=self.max_rows,
                    item_ids=None if item_ids is None else [item_ids[i] for i in order[some]],
                )

            # keyed by the items themselves: another order makes other batches
            digest = hashlib.sha256("".join(items[i].id for i in order[some]).encode()).hexdigest()[:12]
            rows += self.journal.batch(f"{label}, {some.stop - some.start} items {digest}", Measurement, make)
            if self.progress:
                self.progress((some.stop - some.start) * len(conditions))
        return rows

    def damaged(
        self, label: str, model: SteerableModel, conditions: Sequence[SteeringCondition]
    ) -> list[Damage]:
        """`damage`, stored by the journal; of a behaviour alone."""
        behaviour = self.behaviour
        assert isinstance(behaviour, Behaviour)
        return self.journal.batch(
            f"{label}, damage",
            Damage,
            lambda: damage(model.lm, model.layer, behaviour, self.split, conditions),
        )
