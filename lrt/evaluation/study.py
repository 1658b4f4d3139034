"""One behaviour put to the test: strength chosen on development items, everything else read on test
items, or on development items where settings are still being chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lrt.evaluation.behaviours import Behaviour, Item, ItemSplit
from lrt.evaluation.directions import BESIDE, NULLS, RESAMPLED
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import Damage, Measurement, SteeringCondition, damage, item_batches, measure
from lrt.evaluation.score_table import ScoreMissing, unscored
from lrt.evaluation.statistics import mean_estimate
from lrt.models.language_model import LanguageModel

CURVES = ("native", "transferred", "paper_literal")
Progress = Callable[[int], None]
StrengthUnit = Literal["residual_norm", "absolute"]


@dataclass(frozen=True)
class StrengthGrid:
    """The strengths of a study.

    strengths     Where a vector is added, in the grid's unit.
    ablation_fractions  Where a direction is ablated: of its component, what is taken out.
    damage_limit  Largest rise of cross-entropy, as a share of the unsteered one, at which a
                  strength may be chosen.
    unit          `residual_norm`: the steered model's median residual norm at the layer, so that one grid
                  serves every model. `absolute`: strengths are the paper's alpha, the length of what is
                  added.

    Raises ValueError for strengths or ablation_fractions without zero, without a positive one, or out of order.
    """

    strengths: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.2, 0.35, 0.5, 0.625, 0.75, 1.0)
    ablation_fractions: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    damage_limit: float = 0.1
    unit: StrengthUnit = "residual_norm"

    def __post_init__(self) -> None:
        for name in ("strengths", "ablation_fractions"):
            values = getattr(self, name)
            told = f"evaluation.grid.{name}={list(values)}"
            if 0.0 not in values:
                raise ValueError(
                    f"{told} has no 0: every change is measured against the unsteered model; add 0 to it"
                )
            if not any(value > 0 for value in values):
                raise ValueError(f"{told} has none above 0; add one")
            if list(values) != sorted(set(values)):
                raise ValueError(f"{told} must rise, each value once")
        if self.damage_limit <= 0:
            raise ValueError(f"evaluation.grid.damage_limit={self.damage_limit}; it must be above 0")

    def of(self, behaviour: Behaviour) -> StrengthGrid:
        """The grid whose `strengths` are those of the behaviour's operation."""
        return replace(self, strengths=self.ablation_fractions) if behaviour.operation == "ablate" else self


@dataclass(frozen=True)
class SteerableModel:
    """A model, the block it is steered at, and the length of a vector of strength 1 there."""

    lm: LanguageModel
    layer: int
    length: float

    def cells(
        self, condition: str, unit: Tensor, strengths: Sequence[float], sign: int, draw: int = 0
    ) -> list[SteeringCondition]:
        """One cell a strength for a unit direction `[d]`; `sign` -1 steers against it."""
        return [
            SteeringCondition(condition, strength, sign * strength * self.length * unit, draw)
            for strength in strengths
        ]


@dataclass(frozen=True)
class StrengthChoice:
    """The layer and strength a behaviour is read at.

    change    Native change of the mean score there, on development items.
    damaged   True where no strength kept within the limit, so the mildest was taken.
    tried     Strengths looked at.
    layer     The block that is steered.
    by_layer  Every layer looked at, with the native change at its own best strength, and whether it steers
              there: in the intended direction, off zero over the items, undamaged.
    """

    strength: float
    change: float
    damaged: bool
    tried: int
    layer: int = 0
    by_layer: tuple[tuple[int, float, bool], ...] = ()

    @property
    def steers(self) -> bool:
        """Whether the model's own vector steers at the layer chosen."""
        return any(steers for layer, _, steers in self.by_layer if layer == self.layer)


@dataclass(frozen=True)
class Chosen:
    """A choice, the model at the layer chosen, and what was measured there to make it."""

    choice: StrengthChoice
    model: SteerableModel
    measurements: tuple[Measurement, ...]  # on development items
    damages: tuple[Damage, ...]


@dataclass(frozen=True)
class Study:
    """The raw record of one behaviour; `split` is the items it was put to."""

    behaviour: str
    choice: StrengthChoice
    measurements: tuple[Measurement, ...]
    damages: tuple[Damage, ...]
    split: ItemSplit = "test"


def choose_strength(
    behaviour: Behaviour,
    model: SteerableModel,
    native: Tensor,  # [d] unit
    grid: StrengthGrid,
    *,
    temperature: float = 0.0,
    max_rows: int = 1024,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Chosen:
    """The positive strength with the largest native change in the intended direction, undamaged.

    Looks at development items and damage texts alone.
    """
    cells = model.cells("native", native, grid.strengths, behaviour.direction)
    kept = journal or Journal()
    how = Measuring(behaviour, "development", temperature, max_rows, progress, kept)
    rows = how.measured(f"block {model.layer}", model, behaviour.development, cells)
    harm = how.damaged(f"block {model.layer}", model, cells)
    lacking = unscored(rows)
    scored = [row for row in rows if row.item not in lacking]
    if not scored:
        raise ScoreMissing(behaviour.name, "development")
    means = {s: _mean(r.value for r in scored if r.strength == s) for s in grid.strengths}
    positive = [d for d in harm if d.strength > 0]
    allowed = [d for d in positive if d.relative <= grid.damage_limit]
    chosen = max(
        (d.strength for d in allowed or [min(positive, key=lambda d: d.relative)]),
        key=lambda s: behaviour.direction * (means[s] - means[0.0]),
    )
    change = means[chosen] - means[0.0]
    scores = {s: np.array([r.value for r in scored if r.strength == s]) for s in (0.0, chosen)}
    keys = [r.key for r in scored if r.strength == 0.0]
    moved = mean_estimate(scores[chosen] - scores[0.0], keys=keys)
    steers = bool(allowed) and moved.off_zero and moved.value * behaviour.direction > 0
    by_layer = ((model.layer, change, steers),)
    choice = StrengthChoice(chosen, change, not allowed, len(positive), model.layer, by_layer)
    return Chosen(choice, model, tuple(rows), tuple(harm))


def choose_layer(
    behaviour: Behaviour,
    places: Sequence[tuple[SteerableModel, Tensor]],  # the model at a layer, its own vector [d] there
    grid: StrengthGrid,
    *,
    temperature: float = 0.0,
    max_rows: int = 1024,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Chosen:
    """The layer, among `places`, at which the model's own vector does most, at its best strength there.

    Undamaged layers go before damaged ones. Looks at development items and damage texts alone.
    """
    looked = [
        choose_strength(
            behaviour,
            model,
            torch.nn.functional.normalize(native.float(), dim=0),
            grid,
            temperature=temperature,
            max_rows=max_rows,
            progress=progress,
            journal=journal,
        )
        for model, native in places
    ]
    best = max(looked, key=lambda c: (not c.choice.damaged, behaviour.direction * c.choice.change))
    by_layer = tuple(each for c in looked for each in c.choice.by_layer)
    return replace(best, choice=replace(best.choice, by_layer=by_layer))


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
    """Everything that is measured of one behaviour, at the layer and strength chosen for it.

    split  The items it is put to. `development` is for settings that are still being chosen, as the
           layers of a sweep: what is chosen on test items can no longer be tested on them.
    journal  Where batches are kept until the study is whole.

    Curves over the whole grid for the native, transferred and literal vectors, one random draw, the
    native half-vectors and further random draws where items have answers, and the source under its
    own vector; the nulls and resampled maps at the chosen strength; the plain prompt. Damage for all
    that has a curve, and for every null's first draw at the chosen strength.
    """
    sign = behaviour.direction
    choice, target = chosen.choice, chosen.model
    rows, harm = list(chosen.measurements), list(chosen.damages)
    nonzero = [s for s in grid.strengths if s != 0]
    curves: list[SteeringCondition] = [SteeringCondition("none", 0.0, torch.zeros(target.lm.width))]
    for name in (*CURVES, "random"):
        curves += target.cells(name, directions[name][0], nonzero, sign)
    if behaviour.has_answers:
        for draw, half in enumerate(directions["native_half"]):
            curves += target.cells("native_half", half, nonzero, sign, draw)
    points: list[SteeringCondition] = []
    for name in (*BESIDE, *NULLS, *RESAMPLED):
        for draw, unit in enumerate(directions.get(name, ())):
            curve = behaviour.has_answers and name == "random"
            if curve and draw:
                points += target.cells(name, unit, nonzero, sign, draw)
            elif name != "random" or draw:
                points += target.cells(name, unit, [choice.strength], sign, draw)

    how = Measuring(behaviour, split, temperature, max_rows, progress, journal or Journal())
    put = behaviour.items_of(split)
    rows += how.measured("target", target, put, curves + points)
    source_unit = torch.nn.functional.normalize(source_vector.float(), dim=0)
    rows += how.measured("source", source, put, source.cells("source", source_unit, grid.strengths, sign))
    prompted = [item for item in put if item.prompted]
    if prompted:
        asked = [replace(item, prompt=item.prompted) for item in prompted]
        # under the id of the item each is a version of, so that changes pair up
        plain = [SteeringCondition("prompt", 0.0, torch.zeros(target.lm.width))]
        rows += how.measured("prompted", target, asked, plain, [item.id for item in prompted])
    # the native harm on development texts is known from the choice
    harmful = (*CURVES, "random") if split == "test" else (*CURVES[1:], "random")
    harmed = [c for c in curves if c.condition in harmful and c.draw == 0]
    harmed += [
        c for c in points if c.condition in (*BESIDE, *NULLS) and c.draw == 0 and c.condition != "random"
    ]
    harm += how.damaged("target", target, harmed)
    return Study(behaviour.name, choice, tuple(rows), tuple(harm), split)


@dataclass(frozen=True)
class Measuring:
    """How items are put to the models, and where what was measured is kept."""

    behaviour: Behaviour
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
        cells: Sequence[SteeringCondition],
        named: Sequence[str] | None = None,
    ) -> list[Measurement]:
        """`measure` in batches that the journal keeps, of prompts of like length: little is padded."""
        rows: list[Measurement] = []
        order = sorted(range(len(items)), key=lambda i: len(items[i].prompt))
        for some in item_batches(len(items), len(cells), self.max_rows):

            def make(some: slice = some) -> list[Measurement]:
                return measure(
                    model.lm,
                    model.layer,
                    self.behaviour,
                    self.split,
                    [items[i] for i in order[some]],
                    cells,
                    temperature=self.temperature,
                    max_rows=self.max_rows,
                    named=None if named is None else [named[i] for i in order[some]],
                )

            # by the items themselves: another order cuts other batches
            put = hashlib.sha256("".join(items[i].id for i in order[some]).encode()).hexdigest()[:12]
            rows += self.journal.batch(f"{label}, {some.stop - some.start} items {put}", Measurement, make)
            if self.progress:
                self.progress((some.stop - some.start) * len(cells))
        return rows

    def damaged(self, label: str, model: SteerableModel, cells: Sequence[SteeringCondition]) -> list[Damage]:
        """`damage`, kept by the journal."""
        return self.journal.batch(
            f"{label}, damage",
            Damage,
            lambda: damage(model.lm, model.layer, self.behaviour, self.split, cells),
        )


def study_rows(
    behaviour: Behaviour, grid: StrengthGrid, draws: Mapping[str, int], split: ItemSplit = "test"
) -> int:
    """Rows that `study` reports progress over, to size a progress bar."""
    nonzero = len(grid.strengths) - 1
    cells = 1 + nonzero * (len(CURVES) + 1) + len(grid.strengths)
    for name in (*BESIDE, *NULLS, *RESAMPLED):
        count = draws.get(name, 0)
        if name == "random":
            count = (count - 1) * (nonzero if behaviour.has_answers else 1)
        cells += count
    if behaviour.has_answers:
        cells += nonzero * draws.get("native_half", 0)
    put = behaviour.items_of(split)
    return cells * len(put) + sum(bool(item.prompted) for item in put)


def _mean(values: object) -> float:
    numbers = list(values)  # type: ignore[call-overload]
    return float(sum(numbers) / len(numbers))
