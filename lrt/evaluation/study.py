"""Everything that is measured of one behaviour at the layer and strength chosen for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrt.evaluation.behaviours import Behaviour, ItemSplit
from lrt.evaluation.choice import Chosen, StrengthChoice, StrengthGrid
from lrt.evaluation.directions import COMPARED, NULLS, RESAMPLED
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import Damage, Measurement, SteerableModel, SteeringCondition
from lrt.evaluation.resumable import Progress, ResumableMeasuring

CURVES = ("native", "transferred", "paper_literal")


@dataclass(frozen=True)
class Study:
    """All measurements of one behaviour; `split` names the items that it was evaluated on."""

    behaviour: str
    choice: StrengthChoice
    measurements: tuple[Measurement, ...]
    damages: tuple[Damage, ...]
    split: ItemSplit = "test"


def study(
    behaviour: Behaviour,
    source: SteerableModel,
    source_vector: Tensor,  # [d_source], at the source's layer
    chosen: Chosen,
    directions: Mapping[str, Tensor],  # condition -> [draws, d_target] unit, at the chosen layer
    grid: StrengthGrid,
    *,
    split: ItemSplit = "test",
    temperature: float = 0.0,
    max_rows: int = 1024,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Study:
    """Measure one behaviour at the layer and strength chosen for it, with all nulls.

    - At every strength of the grid: the native, transferred and literal vectors, one random draw, and the
      source under its own vector. Where items have answers, the native half-vectors and all random draws too.
    - At the chosen strength: the other nulls and the resampled maps.
    - The unsteered model, and the plain prompt that asks for the behaviour.
    - Damage of all conditions with a curve, and of every null's first draw at the chosen strength.

    split    The items that are evaluated. `development` is for settings that are still being chosen, as the
             layers of a sweep: a choice made on test items can no longer be tested on them.
    journal  Stores batches until the study is complete.
    """
    sign = behaviour.direction
    choice, target = chosen.choice, chosen.model
    rows, damages = list(chosen.measurements), list(chosen.damages)
    nonzero = [s for s in grid.strengths if s != 0]
    curves: list[SteeringCondition] = [SteeringCondition("none", 0.0, torch.zeros(target.lm.width))]
    for name in (*CURVES, "random"):
        curves += target.conditions(name, directions[name][0], nonzero, sign)
    if behaviour.has_answers:
        for draw, half in enumerate(directions.get("native_half", ())):
            curves += target.conditions("native_half", half, nonzero, sign, draw)
    points: list[SteeringCondition] = []
    for name in (*COMPARED, *NULLS, *RESAMPLED):
        for draw, unit in enumerate(directions.get(name, ())):
            curve = behaviour.has_answers and name == "random"
            if curve and draw:
                points += target.conditions(name, unit, nonzero, sign, draw)
            elif name != "random" or draw:
                points += target.conditions(name, unit, [choice.strength], sign, draw)

    measuring = ResumableMeasuring(behaviour, split, temperature, max_rows, progress, journal or Journal())
    items = behaviour.items_of(split)
    rows += measuring.measured("target", target, items, curves + points)
    source_unit = torch.nn.functional.normalize(source_vector.float(), dim=0)
    own_curve = source.conditions("source", source_unit, grid.strengths, sign)
    rows += measuring.measured("source", source, items, own_curve)
    prompted = [item for item in items if item.prompted]
    if prompted:
        versions = [replace(item, prompt=item.prompted) for item in prompted]
        # under the id of the item each is a version of, so that changes pair up
        plain = [SteeringCondition("prompt", 0.0, torch.zeros(target.lm.width))]
        rows += measuring.measured("prompted", target, versions, plain, [item.id for item in prompted])
    # the native damage on development texts is known from the choice
    with_damage = (*CURVES, "random") if split == "test" else (*CURVES[1:], "random")
    damaging = [c for c in curves if c.condition in with_damage and c.draw == 0]
    damaging += [
        c for c in points if c.condition in (*COMPARED, *NULLS) and c.draw == 0 and c.condition != "random"
    ]
    damages += measuring.damaged("target", target, damaging)
    return Study(behaviour.name, choice, tuple(rows), tuple(damages), split)


def study_rows(
    behaviour: Behaviour, grid: StrengthGrid, draws: Mapping[str, int], split: ItemSplit = "test"
) -> int:
    """Rows (item x condition) that `study` reports progress over, to size a progress bar."""
    nonzero = len(grid.strengths) - 1
    conditions = 1 + nonzero * (len(CURVES) + 1) + len(grid.strengths)
    for name in (*COMPARED, *NULLS, *RESAMPLED):
        count = draws.get(name, 0)
        if name == "random":
            count = (count - 1) * (nonzero if behaviour.has_answers else 1)
        conditions += count
    if behaviour.has_answers:
        conditions += nonzero * draws.get("native_half", 0)
    items = behaviour.items_of(split)
    return conditions * len(items) + sum(bool(item.prompted) for item in items)
