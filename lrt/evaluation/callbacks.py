"""Steering evaluation during training: scores under the vectors that the unfinished map transfers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.measuring import SteerableModel, SteeringCondition, measure
from lrt.mapping import AffineMap, MapModule
from lrt.steering import Mapping, SteeringVector


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


class SteeringEvalCallback(L.Callback):
    """Steers the target with the vectors that the unfinished map transfers, every `every` steps.

    Uses development items alone, on the first process alone. Logs `behaviour/<name>` through the
    module's loggers and stores the scores for the report, across resumed runs too.

    mapping_of   Puts the map as it stands between the models' layers.
    items        Development items of each behaviour.
    temperature  Of generated answers; 0 decodes greedily.
    max_rows     Rows (item x condition) in one batch.

    Raises InvalidValue for `every` or `items` below 1.
    """

    def __init__(
        self,
        tracked: Sequence[TrackedBehaviour],
        mapping_of: Callable[[AffineMap], Mapping],
        every: int,
        items: int = 16,
        temperature: float = 0.0,
        max_rows: int = 1024,
    ) -> None:
        if every < 1 or items < 1:
            raise InvalidValue(
                f"evaluation.during_training.every={every} and evaluation.during_training.items={items} must "
                "be at least 1; set evaluation.during_training.behaviours=[] to turn this evaluation off"
            )
        self.tracked, self.mapping_of, self.every = tuple(tracked), mapping_of, every
        self.items, self.temperature, self.max_rows = items, temperature, max_rows
        self.points: dict[str, list[list[float]]] = {each.behaviour.name: [] for each in tracked}
        self.references: dict[str, dict[str, float]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not self.references:
            for each in self.tracked:
                steered = self._condition("native", each, each.native)
                unsteered = SteeringCondition("none", 0.0, 0 * steered.offset)
                none, native = self._means(each, [unsteered, steered])
                self.references[each.behaviour.name] = {"unsteered": none, "native": native}
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        if trainer.is_global_zero and trainer.global_step % self.every == 0:
            self._evaluate(trainer, pl_module)  # once a step, however many batches it accumulates

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and trainer.global_step % self.every:
            self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, MapModule)
        mapping = self.mapping_of(pl_module.affine().to("cpu"))
        scores: dict[str, float] = {}
        for each in self.tracked:
            points = self.points[each.behaviour.name]
            if points and points[-1][0] == trainer.global_step:
                continue
            vector = mapping.transfer(each.vectors, each.target.layer)
            if not vector.norm > 0:  # a map that starts at zero has no direction yet
                continue
            (score,) = self._means(each, [self._condition("transferred", each, vector)])
            points.append([float(trainer.global_step), score])
            scores[f"behaviour/{each.behaviour.name}"] = score
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=trainer.global_step)

    def _condition(self, name: str, each: TrackedBehaviour, vector: SteeringVector) -> SteeringCondition:
        (condition,) = each.target.conditions(
            name, vector.unit_direction, [each.strength], each.behaviour.direction
        )
        return condition

    def _means(self, each: TrackedBehaviour, conditions: Sequence[SteeringCondition]) -> list[float]:
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
        return [
            float(torch.tensor([r.value for r in rows if r.condition == c.condition]).nanmean())
            for c in conditions
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points, "references": self.references}

    def load_state_dict(self, state_dict: MappingOf[str, Any]) -> None:
        self.points |= {name: list(points) for name, points in state_dict["points"].items()}
        self.references = dict(state_dict["references"])

    def history(self) -> list[dict[str, Any]]:
        """`behaviour`, its `unsteered` and `native` scores, and `points` `[[step, score], ...]`."""
        return [
            {"behaviour": name, **self.references.get(name, {}), "points": points}
            for name, points in self.points.items()
        ]
