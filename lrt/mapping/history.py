"""Training curves of a fit, saved in its checkpoints so that a resumed fit has the whole curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L


class FitHistory(L.Callback):
    """Collects `[step, value]` of `train/fvu` every `every` steps and of `val/fvu` at each validation."""

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.train: list[list[float]] = []
        self.val: list[list[float]] = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        # with gradient accumulation several batches belong to one step
        recorded = self.train and self.train[-1][0] == trainer.global_step
        if trainer.global_step % self.every == 0 and not recorded:
            value = float(trainer.callback_metrics["train/fvu"])
            self.train.append([float(trainer.global_step), value])

    def on_validation_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,  # noqa: ARG002
    ) -> None:
        if not trainer.sanity_checking:
            value = float(trainer.callback_metrics["val/fvu"])
            self.val.append([float(trainer.global_step), value])

    def state_dict(self) -> dict[str, Any]:
        return {"train": self.train, "val": self.val}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.train, self.val = list(state_dict["train"]), list(state_dict["val"])
