from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from activations.planted_states import corpus_of, make_store
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from lrt.activations import ActivationDataModule, RowFilter, Selection
from lrt.features import SaeModule, SaeSpec
from lrt.mapping import (
    FitHistory,
    FitSpec,
    MapModule,
    MapSpec,
    Moments,
    ridge_path,
)
from lrt.storage.checkpoints import (
    CheckpointUnreadable,
    DurableCheckpoints,
    RelocatableCheckpoint,
    Stopped,
    plugins,
    resuming,
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
    """Sends this process a stopping signal within a training step or a validation."""

    def __init__(
        self, step: int, validating: bool = False, times: int = 1, number: int = signal.SIGINT
    ) -> None:
        self.step, self.validating, self.times, self.number = step, validating, times, number

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and not self.validating:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and self.validating:
            self.step = -1  # at its first batch alone
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def sigint() -> Any:
    """Lightning leaves the signal ignored, which would last for the whole session."""
    before = signal.getsignal(signal.SIGINT)
    yield before
    signal.signal(signal.SIGINT, before)


STEPS = 21  # of an epoch


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, corpus_of(train=200, validation=20))
    return folder


class Fit:
    """Three epochs over a store, by a Trainer as `train.py` makes one."""

    def __init__(self, store: Path, folder: Path) -> None:
        self.last = folder / "last.ckpt"
        self.data = ActivationDataModule(
            store, Selection((1,), (3,), RowFilter()), batch_rows=64, chunk_rows=32
        )
        train, validation = Moments(6, 10), Moments(6, 10)
        for split, moments in (("train", train), ("validation", validation)):
            for batch in self.data.iterate(split):  # type: ignore[arg-type]
                moments.update(batch["source"], batch["target"])
        reference_ridge = ridge_path(train, validation)
        self.module = MapModule.from_moments(
            MapSpec(), FitSpec(epochs=3), train, reference_ridge=reference_ridge
        )
        self.history = FitHistory(every=1)

    def run(self, *callbacks: Callback, seconds: float = 60.0, accumulate: int = 1) -> None:
        folder = self.last.parent
        self.best = RelocatableCheckpoint(
            folder, monitor="val/fvu", filename="best", enable_version_counter=False
        )
        running = Trainer(
            accelerator="cpu",
            callbacks=[*callbacks, self.history, self.best, *resuming(self.last, seconds)],
            default_root_dir=self.last.parent,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
            max_epochs=3,
            accumulate_grad_batches=accumulate,
            plugins=[DurableCheckpoints()],
            use_distributed_sampler=False,
        )
        running.fit(self.module, datamodule=self.data, ckpt_path=self.last if self.last.is_file() else None)
        assert running.global_step == 3 * -(-STEPS // accumulate)


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A fit that nothing stopped. Not to be run again."""
    fit = Fit(store, tmp_path_factory.mktemp("whole"))
    fit.run()
    return fit


@pytest.mark.parametrize(
    ("signals", "kept"),
    [
        (Signals(30), 31),  # the step under way was ended
        (Signals(20), 21),  # the last of an epoch: with its validation
        (Signals(21, validating=True), 21),
        (Signals(62), 63),
        (Signals(63, validating=True), 63),
    ],
    ids=["within an epoch", "its last step", "its validation", "the last step", "the last validation"],
)
def test_a_fit_that_is_stopped_goes_on_to_the_same_weights(
    store: Path, whole: Fit, tmp_path: Path, sigint: Any, signals: Signals, kept: int
) -> None:
    cut = Fit(store, tmp_path / "cut")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        cut.run(signals)
    assert DurableCheckpoints().load_checkpoint(cut.last)["global_step"] == kept
    assert signal.getsignal(signal.SIGINT) is sigint
    again = Fit(store, tmp_path / "cut")
    again.run()
    assert torch.equal(again.module.affine().weight, whole.module.affine().weight)
    # every step and every validation is in the history once
    assert again.history.val == whole.history.val
    assert again.history.train == whole.history.train


class Dies(Callback):
    """As a kill would: no handler of ours or Lightning's sees it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


@pytest.mark.parametrize("step", [3, 20, 21, 40, 62])
def test_a_fit_that_is_killed_within_an_epoch_loses_what_came_after_its_last_checkpoint(
    store: Path, whole: Fit, tmp_path: Path, step: int
) -> None:
    cut = Fit(store, tmp_path / "cut")
    with pytest.raises(Killed):
        cut.run(Dies(step), seconds=0.0)
    assert DurableCheckpoints().load_checkpoint(cut.last)["global_step"] == step
    again = Fit(store, tmp_path / "cut")
    again.run()
    assert torch.equal(again.module.affine().weight, whole.module.affine().weight)
    assert again.history.val == whole.history.val
    assert again.history.train == whole.history.train


class SaeFit:
    """Three cut-short epochs of an autoencoder over a store; `seen` has the steps that were taken."""

    def __init__(self, store: Path, folder: Path, kind: Any) -> None:
        self.last = folder / "last.ckpt"
        self.seen: list[int] = []
        self.data = ActivationDataModule(
            store, Selection((1,), (3,), RowFilter()), batch_rows=64, chunk_rows=32
        )
        moments = Moments(6, 10)
        for batch in self.data.iterate("train"):
            moments.update(batch["source"], batch["target"])
        spec = SaeSpec(features=12, k=2, kind=kind, learning_rate=1e-2, dead_after=500)
        self.module = SaeModule.from_moments(spec, moments, "source")

    def run(self, *callbacks: Callback, seconds: float = 60.0) -> None:
        seen = self.seen

        class Watch(Callback):
            def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                seen.append(trainer.global_step)

        running = Trainer(
            accelerator="cpu",
            callbacks=[Watch(), *callbacks, *resuming(self.last, seconds)],
            default_root_dir=self.last.parent,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
            max_epochs=3,
            limit_train_batches=8,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            plugins=[DurableCheckpoints()],
            use_distributed_sampler=False,
        )
        found = self.last if self.last.is_file() else None
        running.fit(self.module, train_dataloaders=self.data.train_dataloader(), ckpt_path=found)
        assert running.global_step == 24


@pytest.fixture(scope="module")
def whole_saes(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SaeModule]:
    """An autoencoder of each kind whose fit nothing stopped."""
    fits = {kind: SaeFit(store, tmp_path_factory.mktemp(kind), kind) for kind in ("topk", "jumprelu")}
    for fit in fits.values():
        fit.run()
    return {kind: fit.module for kind, fit in fits.items()}


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *(("topk", step) for step in (3, 8, 14, 16, 23)),
        ("jumprelu", 14),
        *(pytest.param("jumprelu", step, marks=pytest.mark.slow) for step in (3, 8, 16, 23)),
    ],
)
def test_an_autoencoder_of_epochs_cut_short_goes_on_to_the_same_weights(
    store: Path, whole_saes: dict[str, SaeModule], tmp_path: Path, step: int, kind: str
) -> None:
    whole = whole_saes[kind]
    with pytest.raises(Killed):
        SaeFit(store, tmp_path, kind).run(Dies(step), seconds=0.0)
    cut = SaeFit(store, tmp_path, kind)
    cut.run()
    assert cut.seen == list(range(step + 1, 25))
    for (name, ours), theirs in zip(
        cut.module.state_dict().items(), whole.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert DurableCheckpoints().load_checkpoint(cut.last)["global_step"] == 24
    again = SaeFit(store, tmp_path, kind)
    again.run()
    assert again.seen == []
    assert torch.equal(again.module.learnt.W_dec, whole.learnt.W_dec)


@pytest.fixture(scope="module")
def accumulated(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A fit of three batches a step that nothing stopped. Not to be run again."""
    fit = Fit(store, tmp_path_factory.mktemp("accumulated"))
    fit.run(accumulate=3)
    return fit


@pytest.mark.parametrize("step", [4, 9, 17])
def test_no_checkpoint_falls_between_two_steps_of_the_optimizer(
    store: Path, accumulated: Fit, tmp_path: Path, step: int
) -> None:
    cut = Fit(store, tmp_path / "cut")
    with pytest.raises(Killed):
        cut.run(Dies(step), seconds=0.0, accumulate=3)
    again = Fit(store, tmp_path / "cut")
    again.run(accumulate=3)
    assert torch.equal(again.module.affine().weight, accumulated.module.affine().weight)


def test_between_two_checkpoints_of_an_epoch_lies_the_time_that_was_asked_for(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    real = Trainer.save_checkpoint

    def save(self: Trainer, path: Any, *more: Any, **named: Any) -> None:
        if Path(path).name == "last.ckpt":
            saved.append(self.global_step)
        real(self, path, *more, **named)

    monkeypatch.setattr(Trainer, "save_checkpoint", save)
    Fit(store, tmp_path).run(seconds=3600.0)
    assert saved == [STEPS, 2 * STEPS, 3 * STEPS]


def test_the_best_of_a_folder_that_was_moved_is_found_there(store: Path, tmp_path: Path) -> None:
    cut = Fit(store, tmp_path / "here")
    with pytest.raises(Killed):
        cut.run(Dies(50))
    before = cut.best
    (tmp_path / "here").rename(tmp_path / "there")
    again = Fit(store, tmp_path / "there")
    with pytest.raises(Killed):
        again.run(Dies(42))  # as soon as it goes on
    assert again.best.best_model_path == str(tmp_path / "there" / "best.ckpt")
    assert Path(again.best.best_model_path).is_file()
    assert again.best.best_model_score == before.best_model_score
    assert list(again.best.best_k_models.values()) == list(before.best_k_models.values())
    assert not (tmp_path / "here").exists()


class StoppedTwice(Callback):
    """A long steering evaluation after a batch, during which Ctrl-C comes twice."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 10:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # the first is noted
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
            raise AssertionError("the second Ctrl-C stops at once")


def test_a_second_stop_ends_a_long_callback_and_the_fit_continues_from_its_last_checkpoint(
    store: Path, whole: Fit, tmp_path: Path, sigint: Any
) -> None:
    cut = Fit(store, tmp_path / "cut")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        cut.run(StoppedTwice(), seconds=0.0)
    assert DurableCheckpoints().load_checkpoint(cut.last)["global_step"] == 9
    again = Fit(store, tmp_path / "cut")
    again.run()
    assert torch.equal(again.module.affine().weight, whole.module.affine().weight)
    signal.signal(signal.SIGINT, sigint)


def test_a_second_time_nothing_is_waited_for(store: Path, tmp_path: Path, sigint: Any) -> None:
    cut = Fit(store, tmp_path)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        cut.run(Signals(10, times=2))
    assert not cut.last.exists()
    signal.signal(signal.SIGINT, sigint)


def test_a_fit_that_ends_leaves_the_signal_as_it_was(store: Path, tmp_path: Path, sigint: Any) -> None:
    Fit(store, tmp_path).run()
    assert signal.getsignal(signal.SIGINT) is sigint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_a_cluster_sends_stops_a_fit_with_a_checkpoint(
    number: int, store: Path, tmp_path: Path, sigint: Any
) -> None:
    before = signal.getsignal(number)
    cut = Fit(store, tmp_path)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as ended:
        cut.run(Signals(10, number=number))
    stop = ended.value if isinstance(ended.value, Stopped) else ended.value.__context__
    assert isinstance(stop, Stopped)
    assert stop.number == number
    assert DurableCheckpoints().load_checkpoint(cut.last)["global_step"] == 11
    assert signal.getsignal(number) == before
    signal.signal(signal.SIGINT, sigint)


SLURM = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "fit"}
TORCHRUN = {
    **dict.fromkeys(("RANK", "LOCAL_RANK", "ROLE_RANK"), "1"),
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), "2"),
    **{"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "1"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "TORCHELASTIC_RESTART_COUNT": "0"},
    **{"TORCHELASTIC_MAX_RESTARTS": "0"},
}


def test_lightning_requeues_nothing_under_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [plugin for plugin in plugins(2) if hasattr(plugin, "auto_requeue")]
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    (slurm,) = (plugin for plugin in plugins(2) if hasattr(plugin, "auto_requeue"))
    assert slurm.auto_requeue is False
    for name, value in TORCHRUN.items():  # started by torchrun within the job
        monkeypatch.setenv(name, value)
    assert not [plugin for plugin in plugins(2) if hasattr(plugin, "auto_requeue")]
