"""Steering evaluation during training: scores under the vectors that the unfinished map transfers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.measuring import UNSTEERED, SteerableModel, SteeringCondition, measure
from lrt.mapping import AffineMap, MapModule
from lrt.steering import Mapping, SteeringVector

REFERENCES = {UNSTEERED: "unsteered", "native": "native", "random": "random"}
"""What is measured once beside the transferred vector, and the name that each is logged under."""

DURING_TRAINING_FVU = "during_training/fvu"


def during_training(behaviour: str, condition: str) -> str:
    """The name under which a behaviour's score is logged while its map is trained."""
    return f"during_training/{behaviour}/{condition}"


@dataclass(frozen=True)
class TrackedBehaviour:
    """One behaviour that is evaluated during training.

    target   The model at the layer that is steered.
    vectors  The source's own vector at each source layer of the map.
    native   The target's own vector at the steered layer.
    """

    behaviour: Behaviour
    target: SteerableModel
    vectors: Sequence[SteeringVector]
    native: SteeringVector
    strength: float


RANDOM_DRAWS = 3
"""Random directions whose mean score stands beside the transferred vector's."""

TOGETHER = 4
"""Points that are measured in one batch: it takes hardly longer than one of them."""


def evaluation_steps(total: int, points: int) -> list[int]:
    """The steps of a fit at which it is evaluated: from 1 to `total`, evenly spaced on a logarithmic scale.

    An effect saturates early, so most of them lie there. A fit with fewer steps has each of them.
    """
    points = min(points, total)
    steps: list[int] = []
    for index in range(points):
        even = total ** (index / (points - 1)) if points > 1 else total
        steps.append(max(steps[-1] + 1 if steps else 1, round(even)))
    return steps


@dataclass(frozen=True)
class _Waiting:
    """A point that is not measured yet.

    units  The transferred directions `[d_target]` by behaviour; without those of a map that has none yet.
    """

    step: float
    fvu: float
    units: dict[str, Tensor]


class SteeringEvalCallback(L.Callback):
    """Steers the target with the vectors that the unfinished map transfers, at `points` steps of a fit.

    Uses development items alone, on the first process alone. The vectors of `TOGETHER` points are measured
    in one batch, with the first also the native vector, random directions and the unsteered model, which no
    map changes. Every point logs the map's FVU and all scores at its own step, by the names of
    `during_training`, through the module's loggers. The report gets them too, across resumed runs.

    mapping_of   Puts the map as it stands between the models' layers.
    fvu_of       The map's FVU on validation documents.
    points       Evaluations of a fit (`evaluation_steps`), and one before the first step where the map
                 transfers anything then.
    items        Development items of each behaviour.
    seed         Of the random directions.
    temperature  Of generated answers; 0 decodes greedily.
    max_rows     Rows (item x condition) in one batch.

    Raises InvalidValue for `points` or `items` below 1.
    """

    def __init__(
        self,
        tracked: Sequence[TrackedBehaviour],
        mapping_of: Callable[[AffineMap], Mapping],
        fvu_of: Callable[[AffineMap], float],
        points: int,
        items: int = 12,
        seed: int = 0,
        temperature: float = 0.0,
        max_rows: int = 1024,
    ) -> None:
        if points < 1 or items < 1:
            raise InvalidValue(
                f"evaluation.during_training.points={points} and evaluation.during_training.items={items} "
                "must be at least 1; set evaluation.during_training.behaviours=[] to turn this evaluation off"
            )
        self.tracked, self.mapping_of, self.fvu_of = tuple(tracked), mapping_of, fvu_of
        self.at_most, self.items, self.seed = points, items, seed
        self.temperature, self.max_rows = temperature, max_rows
        self.points: dict[str, list[list[float]]] = {each.behaviour.name: [] for each in tracked}
        self.references: dict[str, dict[str, float]] = {}
        self._waiting: list[_Waiting] = []
        self._last = -1.0
        self._steps: set[int] = set()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        total = trainer.estimated_stepping_batches
        if 0 < total < math.inf:  # the module refuses any other
            self._steps = set(evaluation_steps(int(total), self.at_most))
        self._take(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        if trainer.global_step in self._steps:
            self._take(trainer, pl_module)  # once a step, however many batches it accumulates

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._take(trainer, pl_module)  # a fit that stops early has its last point too
        self._measure(trainer)

    def _take(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps the vectors of this step, and measures what waits once there is enough of it."""
        assert isinstance(pl_module, MapModule)
        step = float(trainer.global_step)
        if not trainer.is_global_zero or step <= self._last:
            return
        self._last = step
        affine = pl_module.affine().to("cpu")
        mapping = self.mapping_of(affine)
        vectors = {e.behaviour.name: mapping.transfer(e.vectors, e.target.layer) for e in self.tracked}
        units = {name: vector.unit_direction for name, vector in vectors.items() if vector.norm > 0}
        if units:  # a map that starts at zero has no direction yet
            self._waiting.append(_Waiting(step, self.fvu_of(affine), units))
        if len(self._waiting) >= TOGETHER:
            self._measure(trainer)

    def _measure(self, trainer: L.Trainer) -> None:
        scores: list[dict[str, float]] = [{} for _ in self._waiting]
        for each in self.tracked:
            name = each.behaviour.name
            steered = [(i, w) for i, w in enumerate(self._waiting) if name in w.units]
            if not steered:
                continue
            conditions = [
                self._condition("transferred", each, waiting.units[name], draw)
                for draw, (_, waiting) in enumerate(steered)
            ]
            if name not in self.references:
                conditions += self._reference_conditions(each)
            means = self._means(each, conditions)
            if name not in self.references:
                self.references[name] = {
                    shown: fmean(means[condition]) for condition, shown in REFERENCES.items()
                }
            for (i, waiting), score in zip(steered, means["transferred"], strict=True):
                self.points[name].append([waiting.step, score, waiting.fvu])
                for condition, value in {"transferred": score, **self.references[name]}.items():
                    scores[i][during_training(name, condition)] = value
        for waiting, logged in zip(self._waiting, scores, strict=True):
            for logger in trainer.loggers:
                logger.log_metrics({DURING_TRAINING_FVU: waiting.fvu, **logged}, step=int(waiting.step))
        self._waiting = []

    def _reference_conditions(self, each: TrackedBehaviour) -> list[SteeringCondition]:
        native = self._condition("native", each, each.native.unit_direction)
        unsteered = SteeringCondition(UNSTEERED, 0.0, 0 * native.offset)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(RANDOM_DRAWS, each.target.lm.width, generator=generator)
        units = torch.nn.functional.normalize(drawn, dim=1)
        random = [self._condition("random", each, unit, draw) for draw, unit in enumerate(units)]
        return [unsteered, native, *random]

    def _condition(self, name: str, each: TrackedBehaviour, unit: Tensor, draw: int = 0) -> SteeringCondition:
        (condition,) = each.target.conditions(name, unit, [each.strength], each.behaviour.direction, draw)
        return condition

    def _means(
        self, each: TrackedBehaviour, conditions: Sequence[SteeringCondition]
    ) -> dict[str, list[float]]:
        """Mean score over the items, of each draw of each condition."""
        rows = measure(
            each.target.lm,
            each.target.layer,
            each.behaviour,
            "development",
            each.behaviour.development[: self.items],
            conditions,
            temperature=self.temperature,
            max_rows=self.max_rows,
        )
        means: dict[str, list[float]] = {condition.condition: [] for condition in conditions}
        for number, condition in enumerate(conditions):
            # rows are ordered by item, then condition
            values = torch.tensor([row.value for row in rows[number :: len(conditions)]])
            means[condition.condition].append(float(values.nanmean()))
        return means

    def state_dict(self) -> dict[str, Any]:
        waiting = [{"step": w.step, "fvu": w.fvu, "units": w.units} for w in self._waiting]
        return {"points": self.points, "references": self.references, "waiting": waiting, "last": self._last}

    def load_state_dict(self, state_dict: MappingOf[str, Any]) -> None:
        self.points |= {name: list(points) for name, points in state_dict["points"].items()}
        self.references = dict(state_dict["references"])
        self._waiting = [_Waiting(**each) for each in state_dict["waiting"]]
        self._last = state_dict["last"]

    def history(self) -> list[dict[str, Any]]:
        """`behaviour`, its `unsteered`, `native` and `random` scores, and `points` `[[step, score, fvu],
        ...]`."""
        return [
            {"behaviour": name, **self.references.get(name, {}), "points": points}
            for name, points in self.points.items()
        ]
