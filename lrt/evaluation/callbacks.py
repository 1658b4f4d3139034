"""Behaviour during training: the map as it stands steers, and the answer stands beside the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.measuring import SteeringCondition, measure
from lrt.evaluation.study import SteerableModel
from lrt.mapping import MapModule


@dataclass(frozen=True)
class TrackedBehaviour:
    """One behaviour to follow: its vectors in both models, and where and how strongly to steer.

    columns  What of the map's image belongs to the target's layer.
    """

    behaviour: Behaviour
    target: SteerableModel
    source_vector: Tensor  # [d_source], all the map's layers
    native: Tensor  # [d] unit, at the target's layer
    strength: float
    columns: slice


class SteeringEvalCallback(L.Callback):
    """Steers the target with the vector that the unfinished map carries across, every `every` steps.

    Works on development items alone, on the first process alone. Logs `behaviour/<name>` through the
    module's loggers and keeps the points, which outlive a resumed run, for the report.
    """

    def __init__(
        self,
        probes: Sequence[TrackedBehaviour],
        every: int,
        items: int = 16,
        temperature: float = 0.0,
        max_rows: int = 1024,
    ) -> None:
        if every < 1 or items < 1:
            raise ValueError(
                f"evaluation.during_training.every={every} and evaluation.during_training.items={items} must be at "
                "least 1; set evaluation.during_training.behaviours=[] to train without probes"
            )
        self.probes, self.every = tuple(probes), every
        self.items, self.temperature, self.max_rows = items, temperature, max_rows
        self.points: dict[str, list[list[float]]] = {p.behaviour.name: [] for p in probes}
        self.references: dict[str, dict[str, float]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not self.references:
            for probe in self.probes:
                cells = self._cells("native", probe, probe.native)
                none, native = self._means(probe, [SteeringCondition("none", 0.0, 0 * cells.offset), cells])
                self.references[probe.behaviour.name] = {"unsteered": none, "native": native}
            self._look(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        if trainer.is_global_zero and trainer.global_step % self.every == 0:
            self._look(trainer, pl_module)  # once a step, however many batches it gathers

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and trainer.global_step % self.every:
            self._look(trainer, pl_module)

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, MapModule)
        affine = pl_module.affine().to("cpu")
        found: dict[str, float] = {}
        for probe in self.probes:
            points = self.points[probe.behaviour.name]
            if points and points[-1][0] == trainer.global_step:
                continue
            image = affine.directions(probe.source_vector)[probe.columns]
            if not image.norm() > 0:  # a map that starts at zero has no direction yet
                continue
            unit = torch.nn.functional.normalize(image, dim=0)
            (value,) = self._means(probe, [self._cells("transferred", probe, unit)])
            points.append([float(trainer.global_step), value])
            found[f"behaviour/{probe.behaviour.name}"] = value
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)

    def _cells(self, condition: str, probe: TrackedBehaviour, unit: Tensor) -> SteeringCondition:
        (cell,) = probe.target.cells(condition, unit, [probe.strength], probe.behaviour.direction)
        return cell

    def _means(self, probe: TrackedBehaviour, cells: Sequence[SteeringCondition]) -> list[float]:
        rows = measure(
            probe.target.lm,
            probe.target.layer,
            probe.behaviour,
            "development",
            probe.behaviour.development[: self.items],
            cells,
            temperature=self.temperature,
            max_rows=self.max_rows,
        )
        return [
            float(torch.tensor([r.value for r in rows if r.condition == c.condition]).mean()) for c in cells
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points, "references": self.references}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.points |= {name: list(points) for name, points in state_dict["points"].items()}
        self.references = dict(state_dict["references"])

    def history(self) -> list[dict[str, Any]]:
        """`behaviour`, its `unsteered` and `native` scores, and `points` `[[step, score], ...]`."""
        return [
            {"behaviour": name, **self.references.get(name, {}), "points": points}
            for name, points in self.points.items()
        ]
