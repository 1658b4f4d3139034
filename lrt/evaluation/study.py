"""Everything that is measured of one behaviour at the layer and strength chosen for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrt.evaluation.behaviours import Behaviour, Item, ItemSplit
from lrt.evaluation.choice import Chosen, StrengthChoice, StrengthGrid
from lrt.evaluation.directions import COMPARED, HALVES, NULLS, RESAMPLED, UNTRAINED
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import UNSTEERED, Damage, Measurement, SteerableModel, SteeringCondition
from lrt.evaluation.resumable import Progress, ResumableMeasuring

CURVES = ("native", "transferred")
LIMITED = ("paper_literal", *NULLS)  # measured up to the native vector's damage limit


@dataclass(frozen=True)
class Study:
    """All measurements of one behaviour; `split` names the items that it was evaluated on."""

    behaviour: str
    choice: StrengthChoice
    measurements: tuple[Measurement, ...]
    damages: tuple[Damage, ...]
    split: ItemSplit = "test"


@dataclass(frozen=True, eq=False)
class SourceCurve:
    """The source under its own vector, for comparison.

    vector  At the model's layer.
    items   The split's items as the source reads them, where that is another text.
    """

    model: SteerableModel
    vector: Tensor  # [d_source]
    items: Sequence[Item] | None = None


def study(
    behaviour: Behaviour,
    source: SourceCurve | None,
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

    - At every strength of the grid: the native and transferred vectors. Where items have answers, all random
      draws too.
    - At every positive strength up to the native vector's damage limit: the literal vector, the first draw
      of every null, and every untrained source.
    - At every strength from 0: the source under its own vector, where it is one model.
    - At the chosen strength: further draws of the nulls, and the resampled maps. Where items have answers,
      the native and transferred vectors of half of the prompts.
    - The unsteered model, and the plain prompt that asks for the behaviour.
    - Damage of every first draw but the resampled maps', and of every untrained source, at each of its
      strengths.

    split    The items that are evaluated. `development` is for settings that are still being chosen, as the
             layers of a sweep: a choice made on test items can no longer be tested on them.
    journal  Stores batches until the study is complete.
    """
    choice, target = chosen.choice, chosen.model
    rows, damages = list(chosen.measurements), list(chosen.damages)
    conditions = target_conditions(behaviour, chosen, directions, grid)
    measuring = ResumableMeasuring(behaviour, split, temperature, max_rows, progress, journal or Journal())
    items = behaviour.items_of(split)
    rows += measuring.measured("target", target, items, conditions)
    if source is not None:
        source_unit = torch.nn.functional.normalize(source.vector.float(), dim=0)
        own_curve = source.model.conditions("source", source_unit, _from_zero(grid), behaviour.direction)
        rows += measuring.measured(
            "source", source.model, source.items or items, own_curve, [item.id for item in items]
        )
    prompted = [item for item in items if item.prompted]
    if prompted:
        versions = [replace(item, prompt=item.prompted) for item in prompted]
        # under the id of the item each is a version of, so that changes pair up
        plain = [SteeringCondition("prompt", 0.0, torch.zeros(target.lm.width))]
        rows += measuring.measured("prompted", target, versions, plain, [item.id for item in prompted])
    # the native damage on development texts is known from the choice
    with_damage = {*CURVES, *LIMITED, *COMPARED} - (set() if split == "test" else {"native"})
    damaging = [c for c in conditions if c.condition in with_damage and _has_curve(c.condition, c.draw)]
    damages += measuring.damaged("target", target, damaging)
    return Study(behaviour.name, choice, tuple(rows), tuple(damages), split)


def target_conditions(
    behaviour: Behaviour,
    chosen: Chosen,
    directions: Mapping[str, Tensor],  # condition -> [draws, d_target] unit, at the chosen layer
    grid: StrengthGrid,
) -> list[SteeringCondition]:
    """All conditions that a study measures on the target, the unsteered model first."""
    target, at_chosen = chosen.model, (chosen.choice.strength,)
    nonzero = tuple(s for s in grid.strengths if s != 0)
    compared = grid.undamaged(chosen.damages) or at_chosen
    conditions = [SteeringCondition(UNSTEERED, 0.0, torch.zeros(target.lm.width))]
    halves = HALVES if behaviour.has_answers else ()
    for name in (*CURVES, *halves, *LIMITED, *COMPARED, *RESAMPLED):
        for draw, unit in enumerate(directions.get(name, ())):
            if name in CURVES or (name == "random" and behaviour.has_answers):
                strengths = nonzero
            else:
                strengths = compared if name in LIMITED and _has_curve(name, draw) else at_chosen
            conditions += target.conditions(name, unit, strengths, behaviour.direction, draw)
    return conditions


def study_rows(
    behaviour: Behaviour,
    chosen: Chosen,
    directions: Mapping[str, Tensor],
    grid: StrengthGrid,
    split: ItemSplit = "test",
    *,
    of_source: bool = True,
) -> int:
    """Rows (item x condition) that `study` reports progress over, to size a progress bar."""
    conditions = len(target_conditions(behaviour, chosen, directions, grid))
    conditions += len(_from_zero(grid)) if of_source else 0
    items = behaviour.items_of(split)
    return conditions * len(items) + sum(bool(item.prompted) for item in items)


def _has_curve(condition: str, draw: int) -> bool:
    """Whether a draw is measured beyond the chosen strength: a behaviour must be above every untrained
    source, so each of these has a curve of its own."""
    return draw == 0 or condition == UNTRAINED


def _from_zero(grid: StrengthGrid) -> tuple[float, ...]:
    return tuple(s for s in grid.strengths if s >= 0)
