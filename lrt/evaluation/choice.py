"""Choosing the strength and the layer of a behaviour, by its native vector on development items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import Damage, Measurement, SteerableModel
from lrt.evaluation.resumable import Progress, ResumableMeasuring
from lrt.evaluation.score_table import ScoreMissing, unscored
from lrt.evaluation.statistics import mean_estimate

StrengthUnit = Literal["residual_norm", "absolute"]


@dataclass(frozen=True)
class StrengthGrid:
    """The strengths of a study.

    strengths           For behaviours that add a vector, in `unit`.
    ablation_fractions  For behaviours that ablate a direction: the fraction of the component removed.
    damage_limit        Largest relative rise of cross-entropy at which a strength may be chosen.
    unit                `residual_norm`: the steered model's median residual norm at the layer, so that one
                        grid fits every model. `absolute`: the paper's alpha, the length of the added vector.

    Raises InvalidValue for a list without zero, without a positive value, or out of order.
    """

    strengths: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.625, 0.75, 1.0)
    ablation_fractions: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    damage_limit: float = 0.1
    unit: StrengthUnit = "residual_norm"

    def __post_init__(self) -> None:
        for name in ("strengths", "ablation_fractions"):
            values = getattr(self, name)
            setting = f"evaluation.grid.{name}={list(values)}"
            if 0.0 not in values:
                raise InvalidValue(f"{setting} must contain 0, the unsteered model; add it")
            if not any(value > 0 for value in values):
                raise InvalidValue(f"{setting} must contain a value above 0; add one")
            if list(values) != sorted(set(values)):
                raise InvalidValue(f"{setting} must be in rising order, each value once")
        if self.damage_limit <= 0:
            raise InvalidValue(f"evaluation.grid.damage_limit={self.damage_limit} must be above 0")

    def of(self, behaviour: Behaviour) -> StrengthGrid:
        """The grid for one behaviour: its `strengths` are the ablation fractions where it ablates."""
        return replace(self, strengths=self.ablation_fractions) if behaviour.operation == "ablate" else self

    def undamaged(self, native: Sequence[Damage]) -> tuple[float, ...]:
        """Positive strengths up to the largest one at which the native vector is within the damage limit."""
        largest = max((d.strength for d in native if d.relative <= self.damage_limit), default=0.0)
        return tuple(s for s in self.strengths if 0 < s <= largest)


@dataclass(frozen=True)
class Trial:
    """One layer and positive strength at which a native vector was tried on development items.

    change     Native change of the mean score, with its 95% interval from `low` to `high`.
    damage     Relative rise of cross-entropy.
    """

    layer: int
    strength: float
    change: float
    low: float
    high: float
    damage: float

    @property
    def shown(self) -> str:
        """The change with its interval, for messages."""
        return f"{self.change:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def moves(self, direction: int) -> bool:
        """Whether the whole interval is on the side of a direction, +1 or -1."""
        return min(direction * self.low, direction * self.high) > 0


@dataclass(frozen=True)
class StrengthChoice:
    """The layer and strength at which a behaviour is evaluated.

    change    Native change of the mean score there, on development items.
    damaged   True where every strength exceeds the damage limit, so the least damaging was taken.
    tried     Number of strengths tried.
    layer     The decoder block that is steered.
    by_layer  Every layer tried: its index, the native change at its own best strength, and whether it
              steers there (in the intended direction, interval off zero, undamaged).
    trials    Every layer and positive strength tried.
    """

    strength: float
    change: float
    damaged: bool
    tried: int
    layer: int = 0
    by_layer: tuple[tuple[int, float, bool], ...] = ()
    trials: tuple[Trial, ...] = ()

    @property
    def steers(self) -> bool:
        """Whether the native vector steers at the chosen layer."""
        return any(steers for layer, _, steers in self.by_layer if layer == self.layer)


@dataclass(frozen=True)
class Chosen:
    """A choice, the model at the chosen layer, and the measurements there that it is based on."""

    choice: StrengthChoice
    model: SteerableModel
    measurements: tuple[Measurement, ...]  # on development items
    damages: tuple[Damage, ...]


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
    """Choose the positive strength with the largest native change in the intended direction.

    Among strengths within the damage limit, if there are any; else the least damaging strength. Uses
    development items and the development half of the damage texts alone.

    Raises ScoreMissing where no item has a score under every condition.
    """
    conditions = model.conditions("native", native, grid.strengths, behaviour.direction)
    measuring = ResumableMeasuring(
        behaviour, "development", temperature, max_rows, progress, journal or Journal()
    )
    rows = measuring.measured(f"block {model.layer}", model, behaviour.development, conditions)
    damages = measuring.damaged(f"block {model.layer}", model, conditions)
    missing = unscored(rows)
    scored = [row for row in rows if row.item not in missing]
    if not scored:
        raise ScoreMissing(behaviour.name, "development")
    means = {s: _mean(r.value for r in scored if r.strength == s) for s in grid.strengths}
    positive = [d for d in damages if d.strength > 0]
    allowed = [d for d in positive if d.relative <= grid.damage_limit]
    chosen = max(
        (d.strength for d in allowed or [min(positive, key=lambda d: d.relative)]),
        key=lambda s: behaviour.direction * (means[s] - means[0.0]),
    )
    keys = [r.key for r in scored if r.strength == 0.0]
    scores = {s: np.array([r.value for r in scored if r.strength == s]) for s in grid.strengths}
    trials = {}
    for d in positive:
        moved = mean_estimate(scores[d.strength] - scores[0.0], keys=keys)
        change = means[d.strength] - means[0.0]
        trials[d.strength] = Trial(model.layer, d.strength, change, moved.low, moved.high, d.relative)
    best = trials[chosen]
    by_layer = ((model.layer, best.change, bool(allowed) and best.moves(behaviour.direction)),)
    choice = StrengthChoice(
        chosen, best.change, not allowed, len(positive), model.layer, by_layer, tuple(trials.values())
    )
    return Chosen(choice, model, tuple(rows), tuple(damages))


def choose_layer(
    behaviour: Behaviour,
    candidates: Sequence[tuple[SteerableModel, Tensor]],
    grid: StrengthGrid,
    *,
    temperature: float = 0.0,
    max_rows: int = 1024,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Chosen:
    """Choose the layer at which the model's own vector changes the score most, at its best strength there.

    Layers with a strength within the damage limit come first. Uses development items and damage texts alone.

    candidates  The model at a layer, and its own vector `[d]` there.
    """
    tried = [
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
        for model, native in candidates
    ]
    best = max(tried, key=lambda c: (not c.choice.damaged, behaviour.direction * c.choice.change))
    by_layer = tuple(each for c in tried for each in c.choice.by_layer)
    trials = tuple(each for c in tried for each in c.choice.trials)
    return replace(best, choice=replace(best.choice, by_layer=by_layer, trials=trials))


def _mean(values: object) -> float:
    numbers = list(values)  # type: ignore[call-overload]
    return float(sum(numbers) / len(numbers))
