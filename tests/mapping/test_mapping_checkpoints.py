from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_mapping_module import Batches, fitted, trainer

from lrt.mapping import (
    CheckpointUnreadable,
    DurableCheckpoints,
    FitSpec,
    MapModule,
    MapSpec,
    StopBetweenBatches,
)

CHECKPOINT = {"state_dict": {"weight": torch.arange(6.0)}, "epoch": 3}


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    DurableCheckpoints().save_checkpoint(CHECKPOINT, tmp_path / "new" / "a.ckpt")
    found = DurableCheckpoints().load_checkpoint(tmp_path / "new" / "a.ckpt")
    assert found["epoch"] == 3
    assert torch.equal(found["state_dict"]["weight"], torch.arange(6.0))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.ckpt"]
    with pytest.raises(TypeError, match="storage_options"):
        DurableCheckpoints().save_checkpoint(CHECKPOINT, tmp_path / "b.ckpt", storage_options={})


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_while_writing_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "last.ckpt"
    DurableCheckpoints().save_checkpoint(CHECKPOINT, path)

    def dies(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, call, dies)
        with pytest.raises(Killed):
            DurableCheckpoints().save_checkpoint({**CHECKPOINT, "epoch": 4}, path)
    assert DurableCheckpoints().load_checkpoint(path)["epoch"] == 3


class Code:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("was run"),)


@pytest.mark.parametrize("damage", ["code", "cut", "text", "empty"])
def test_what_is_no_checkpoint_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    DurableCheckpoints().save_checkpoint(CHECKPOINT, path)
    match damage:
        case "code":
            torch.save({"epoch": Code()}, path)
        case "cut":
            path.write_bytes(path.read_bytes()[:200])
        case "text":
            path.write_bytes(pickle.dumps("text")[1:])
        case "empty":
            path.write_bytes(b"")
    with pytest.raises(CheckpointUnreadable, match=r"last\.ckpt cannot be read .*; delete it"):
        DurableCheckpoints().load_checkpoint(path, weights_only=False)
    assert not Path("was run").exists()


class Signals(Callback):
    """Sends this process Ctrl-C within a training step or a validation."""

    def __init__(self, step: int, validating: bool = False, times: int = 1) -> None:
        self.step, self.validating, self.times = step, validating, times

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and not self.validating:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and self.validating:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def sigint() -> Any:
    """Lightning leaves the signal ignored, which would last for the whole session."""
    before = signal.getsignal(signal.SIGINT)
    yield before
    signal.signal(signal.SIGINT, before)


def test_a_fit_that_is_stopped_within_a_step_goes_on_to_the_same_weights(
    planted: Any, tmp_path: Path, sigint: Any
) -> None:
    spec, fit, path = MapSpec(), FitSpec(epochs=3), tmp_path / "last.ckpt"
    whole, _ = fitted(planted, tmp_path, spec, fit)
    io = DurableCheckpoints()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fitted(planted, tmp_path, spec, fit, callbacks=[Signals(41), StopBetweenBatches(path)], plugins=[io])
    assert io.load_checkpoint(path)["global_step"] == 42  # the step under way was ended
    assert signal.getsignal(signal.SIGINT) is sigint
    module = MapModule.load_from_checkpoint(path, weights_only=True)
    running = trainer(tmp_path, plugins=[io], **fit.trainer_options())
    running.fit(
        module,
        Batches(planted.train, 256, shuffled=True),
        Batches(planted.validation, 256, shuffled=False),
        ckpt_path=path,
    )
    assert torch.equal(module.affine().weight, whole.affine().weight)


def test_a_validation_is_not_waited_for_and_a_second_time_nothing_is(
    planted: Any, tmp_path: Path, sigint: Any
) -> None:
    for number, signals in enumerate((Signals(32, validating=True), Signals(41, times=2))):
        path = tmp_path / f"{number}.ckpt"
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fitted(
                planted,
                tmp_path,
                MapSpec(),
                FitSpec(epochs=3),
                callbacks=[signals, StopBetweenBatches(path)],
            )
        assert not path.exists()
        signal.signal(signal.SIGINT, sigint)


def test_a_fit_that_ends_leaves_the_signal_as_it_was(planted: Any, tmp_path: Path, sigint: Any) -> None:
    fitted(
        planted, tmp_path, MapSpec(), FitSpec(epochs=1), callbacks=[StopBetweenBatches(tmp_path / "a.ckpt")]
    )
    assert signal.getsignal(signal.SIGINT) is sigint
    assert not (tmp_path / "a.ckpt").exists()
