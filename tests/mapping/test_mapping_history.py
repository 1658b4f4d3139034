from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lrt.mapping import FitHistory

STEPS = 7


class Known(L.LightningModule):
    """`train/fvu` is 1 / step and `val/fvu` is its double; nothing else happens."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, _batch: Any, _index: int) -> torch.Tensor:
        self.log("train/fvu", 1.0 / (self.global_step + 1))
        return self.weight.square().sum()

    def validation_step(self, _batch: Any, _index: int) -> None:
        self.log("val/fvu", 2.0 / max(1, self.global_step))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAfterEpoch(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        trainer.should_stop = True


def fit(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    checkpoint = options.pop("ckpt_path", None)
    settings: dict[str, Any] = {"max_epochs": 3, **options}
    trainer = L.Trainer(
        logger=False,
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        **settings,
    )
    loader: DataLoader[Any] = DataLoader(torch.zeros(STEPS, 1))  # type: ignore[arg-type]
    trainer.fit(Known(), loader, loader, ckpt_path=checkpoint)
    return trainer


def test_curves_hold_the_step_and_its_value(tmp_path: Path) -> None:
    history = FitHistory(every=5)
    fit(tmp_path, history)
    assert history.train == [[s, pytest.approx(1 / s)] for s in (5, 10, 15, 20)]
    # the check of a few batches before training is none of them
    assert history.val == [[s, pytest.approx(2 / s)] for s in (7, 14, 21)]


def test_a_resumed_fit_has_the_whole_curves(tmp_path: Path) -> None:
    whole = FitHistory(every=2)
    fit(tmp_path, whole)
    first = FitHistory(every=2)
    fit(tmp_path, first, StopAfterEpoch()).save_checkpoint(tmp_path / "part.ckpt")
    assert len(first.val) == 1
    later = FitHistory(every=2)
    fit(tmp_path, later, ckpt_path=tmp_path / "part.ckpt")
    assert (later.train, later.val) == (whole.train, whole.val)
    assert len(first.train) == 3  # the state was handed on, not shared


def test_one_point_a_step_where_batches_are_gathered(tmp_path: Path) -> None:
    history = FitHistory(every=1)
    trainer = fit(tmp_path, history, accumulate_grad_batches=3, max_epochs=1)
    assert trainer.global_step == 3
    steps = [step for step, _ in history.train]
    assert steps == sorted(set(steps))
    assert {1, 2, 3} <= set(steps)
