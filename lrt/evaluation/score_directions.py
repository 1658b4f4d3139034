"""Scores under several directions at the layer and strength that were chosen for a native vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lrt.evaluation.behaviours import Behaviour, ItemSplit
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import SteeringCondition
from lrt.evaluation.statistics import Array
from lrt.evaluation.study import Chosen, Measuring

NONE = "none"


def scores_along(
    chosen: Chosen,
    behaviour: Behaviour,
    directions: Mapping[str, Sequence[Tensor]],  # condition -> draws of [d_target], of any length
    split: ItemSplit,
    *,
    temperature: float,
    max_rows: int,
    progress: Callable[[int], None] | None = None,
    journal: Journal | None = None,
) -> dict[str, list[Array]]:  # condition -> draws of [items]
    """What every item of a split scores under each direction, and under `none`.

    Directions are taken at unit length. `progress` is called with the number of rows done, of
    `rows_along` in all; `journal` keeps batches, for one that is stopped to go on where it was.
    """
    cells = [SteeringCondition(NONE, 0.0, torch.zeros(chosen.model.lm.width))]
    for name, draws in directions.items():
        for draw, direction in enumerate(draws):
            unit = torch.nn.functional.normalize(direction.float(), dim=0)
            cells += chosen.model.cells(name, unit, [chosen.choice.strength], behaviour.direction, draw)
    how = Measuring(behaviour, split, temperature, max_rows, progress, journal or Journal())
    items = behaviour.items_of(split)
    scored = {
        (m.condition, m.draw, m.item): m.value for m in how.measured("target", chosen.model, items, cells)
    }
    found: dict[str, list[Array]] = {NONE: [], **{name: [] for name in directions}}
    for cell in cells:
        found[cell.condition].append(np.array([scored[cell.condition, cell.draw, item.id] for item in items]))
    return found


def rows_along(behaviour: Behaviour, directions: Mapping[str, Sequence[Tensor]], split: ItemSplit) -> int:
    """Rows that `scores_along` reports progress over."""
    return (1 + sum(map(len, directions.values()))) * len(behaviour.items_of(split))
