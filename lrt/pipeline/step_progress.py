"""Progress of a training by Lightning, shown as every other stage's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import lightning as L

from lrt.pipeline.monitor import Advance, Monitor


class StepProgress(L.Callback):
    """Advances a progress bar by optimizer steps, in place of Lightning's own bar."""

    def __init__(self, monitor: Monitor, what: str) -> None:
        self.monitor, self.what = monitor, what
        self._open = ExitStack()
        self._advance: Advance = lambda _: None
        self._done = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        steps = int(trainer.estimated_stepping_batches)
        self._done = 0
        self._advance = self._open.enter_context(self.monitor.progress(self.what, steps))
        self._catch_up(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._catch_up(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self._open.close()

    def on_exception(self, *_: Any) -> None:
        self._open.close()

    def _catch_up(self, trainer: L.Trainer) -> None:
        self._advance(trainer.global_step - self._done)
        self._done = trainer.global_step
