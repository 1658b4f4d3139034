"""Scores under arbitrary directions, at the layer and strength chosen for a native vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lrt.evaluation.behaviours import Behaviour, ItemSplit
from lrt.evaluation.choice import Chosen
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import UNSTEERED, SteeringCondition
from lrt.evaluation.resumable import Progress, ResumableMeasuring
from lrt.evaluation.statistics import Array


def scores_along(
    chosen: Chosen,
    behaviour: Behaviour,
    directions: Mapping[str, Sequence[Tensor]],  # condition -> draws of [d_target], of any length
    split: ItemSplit,
    *,
    temperature: float,
    max_rows: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> dict[str, list[Array]]:  # condition -> draws of [items]
    """Score every item of a split under each direction, and unsteered (`none`).

    directions  Normalised to unit length before the chosen strength is applied.
    progress    Called with the number of rows done, of `rows_along` in all.
    journal     Stores batches, so that a stopped run resumes.
    """
    conditions = [SteeringCondition(UNSTEERED, 0.0, torch.zeros(chosen.model.lm.width))]
    for name, draws in directions.items():
        for draw, direction in enumerate(draws):
            unit = torch.nn.functional.normalize(direction.float(), dim=0)
            strengths, sign = [chosen.choice.strength], behaviour.direction
            conditions += chosen.model.conditions(name, unit, strengths, sign, draw)
    measuring = ResumableMeasuring(behaviour, split, temperature, max_rows, progress, journal or Journal())
    items = behaviour.items_of(split)
    rows = measuring.measured("target", chosen.model, items, conditions)
    values = {(row.condition, row.draw, row.item): row.value for row in rows}
    scores: dict[str, list[Array]] = {UNSTEERED: [], **{name: [] for name in directions}}
    for each in conditions:
        column = [values[each.condition, each.draw, item.id] for item in items]
        scores[each.condition].append(np.array(column))
    return scores


def rows_along(behaviour: Behaviour, directions: Mapping[str, Sequence[Tensor]], split: ItemSplit) -> int:
    """Rows (item x condition) that `scores_along` reports progress over."""
    return (1 + sum(map(len, directions.values()))) * len(behaviour.items_of(split))
