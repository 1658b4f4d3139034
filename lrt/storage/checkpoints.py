"""Checkpoints that are whole or absent, and fits that a signal stops between two batches."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lrt.errors import UserError
from lrt.storage.durable import write_durably

log = logging.getLogger(__name__)


class CheckpointUnreadable(UserError):
    """A checkpoint that is damaged, or holds more than tensors and plain containers."""


class DurableCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its final name first, and reads nothing that could run code.

    Lightning's own is gathered in memory and renamed from the system's temporary folder without being forced
    onto the disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Whatever goes wrong, `path` holds its old content or the new one in full."""
        if storage_options is not None:
            raise TypeError(f"storage_options={storage_options!r} has no meaning for a local checkpoint")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, lambda temporary: torch.save(checkpoint, temporary))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,
        weights_only: bool | None = None,  # noqa: ARG002 (it is never anything else)
    ) -> dict[str, Any]:
        """Raises CheckpointUnreadable, which says to delete it."""
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # damaged bytes make the reader stumble over anything
            raise CheckpointUnreadable(
                f"the checkpoint {path} cannot be read ({type(error).__name__}); delete it and run the "
                "command again: the fit begins anew"
            ) from error
        return checkpoint


class RelocatableCheckpoint(ModelCheckpoint):
    """Lightning's own, whose folder may be moved or copied: restored paths are looked up where it is now.

    Without this the best checkpoint so far counts as lost.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state, by file names alone."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        relocated = {**state_dict, "dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            relocated[name] = here(relocated.get(name) or "")
        relocated["best_k_models"] = {
            here(path): score for path, score in state_dict["best_k_models"].items()
        }
        super().load_state_dict(relocated)


class Stopped(KeyboardInterrupt):
    """A signal that asked the process to stop; `number` says which."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class OutOfTime(UserError):
    """A fit reached its time limit; its checkpoint is saved."""


STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
"""Ctrl-C, a closed terminal, and what clusters send before they end a job."""


@contextmanager
def take_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """STOPPING goes to `handler`, but for a signal that the process ignores (`nohup`). Other threads than the
    main one get no signals, and change nothing here."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # None: set by a library in C, and not to be had back
        before = {n: was for n in STOPPING if (was := signal.getsignal(n)) not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def raise_stopped(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """A signal handler that stops at once."""
    raise Stopped(number)


class CheckpointBetweenBatches(L.Callback):
    """Saves checkpoints within an epoch. A stopping signal ends the fit after the batch, with a checkpoint.

    seconds    Between two checkpoints of a single process. Several processes, whose clocks differ, save at
               the end of an epoch only.
    max_time   Seconds after which the fit ends in the same way; of several processes after the epoch. The
               time of earlier runs of a fit that continues does not count.

    At the end of an epoch, and during its validation, a signal lets the epoch end, which saves a checkpoint
    of its own. Of several processes a signalled one stops at once: the fit continues from the last epoch. A
    second signal stops at once: the fit then continues from the last checkpoint. Raises Stopped, on which
    Lightning ends the process, and OutOfTime. Place it behind callbacks that act after a batch: those behind
    it do not run.
    """

    def __init__(self, path: Path, seconds: float = 60.0, max_time: float | None = None) -> None:
        self.path, self.seconds, self.max_time = path, seconds, max_time
        self._started = 0.0
        self._first_step = 0
        self._asked: int | None = None
        self._signals = ExitStack()
        self._saved = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self._started = self._saved = time.monotonic()
        self._first_step = trainer.global_step
        # of several processes each would stop at another batch and wait for the others: they stop at once
        self._signals.enter_context(take_signals(self._ask if trainer.world_size == 1 else raise_stopped))

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._asked is not None:
            raise Stopped(number)
        self._asked = number
        log.info("Stopping after the current batch; Ctrl-C again stops at once")

    def _stop_if_asked(self) -> None:
        if self._asked is not None:
            raise Stopped(self._asked)

    def _out_of_time(self) -> bool:
        return self.max_time is not None and time.monotonic() - self._started >= self.max_time

    def _end(self, trainer: L.Trainer) -> None:
        raise OutOfTime(
            f"the fit stopped at trainer.max_time, after step {trainer.global_step} of "
            f"{trainer.estimated_stepping_batches}, with a checkpoint ({self.path.parent}). Run the same "
            "command again, with any max_time: it goes on from there"
        )

    def on_train_batch_end(self, trainer: L.Trainer, *given: Any) -> None:
        # saved behind the last batch, the epoch would count as done, its validation not; and between two
        # steps of the optimizer, gradients that no checkpoint holds would be lost
        batch_index = given[-1]
        if trainer.is_last_batch or (batch_index + 1) % trainer.accumulate_grad_batches:
            return
        alone = trainer.world_size == 1
        late = alone and self._out_of_time()
        if self._asked is not None or late or (alone and time.monotonic() - self._saved >= self.seconds):
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
        self._stop_if_asked()
        if late:
            self._end(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self._stop_if_asked()
        # after an epoch that this run has trained, or a short limit would never get anywhere
        trained = trainer.global_step > self._first_step
        if self.max_time is not None and trained and trainer.strategy.broadcast(self._out_of_time()):
            self._end(trainer)

    def on_exception(self, *_: Any) -> None:
        self._signals.close()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self._signals.close()
        self._stop_if_asked()


def plugins(processes: int = 1) -> list[Any]:
    """The Trainer's plugins: durable checkpoints, and who started the processes.

    A fit of one process is alone, whatever started it. Several are those of torchrun, also within a SLURM
    job, or those of srun. Lightning requeues nothing under SLURM: it would save and load a checkpoint of its
    own beside ours, from whatever fit wrote it last.
    """
    environment: list[ClusterEnvironment] = []  # Lightning's own choice
    if processes == 1:
        environment = [LightningEnvironment()]
    elif SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        environment = [SLURMEnvironment(auto_requeue=False)]
    return [DurableCheckpoints(), *environment]


def resuming(last: Path, seconds: float = 60.0, max_time: float | None = None) -> list[L.Callback]:
    """Callbacks that save `last` after each epoch and within it; place them behind a fit's other callbacks.

    seconds, max_time  As in `CheckpointBetweenBatches`.

    To continue, give the Trainer `plugins`, and `ckpt_path=last` where the file exists.
    """
    # one of its own beside the best of a fit: `save_last` leaves out the epochs that are not the best
    of_epochs = RelocatableCheckpoint(last.parent, filename=last.stem, enable_version_counter=False)
    return [of_epochs, CheckpointBetweenBatches(last, seconds, max_time)]
