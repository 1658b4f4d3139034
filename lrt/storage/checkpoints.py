"""Checkpoints that are whole or not there, and a fit that stops between two batches when it is told to."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lrt.storage.durable import write_durably

# Seconds from Ctrl-C to the end of what is under way, or to its being broken off.
PATIENCE = 3.0


class CheckpointUnreadable(ValueError):
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
            found: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # damaged bytes make the reader stumble over anything
            raise CheckpointUnreadable(
                f"the checkpoint {path} cannot be read ({type(error).__name__}); delete it and run the "
                "command again: the fit begins anew"
            ) from error
        return found


class RelocatableCheckpoint(ModelCheckpoint):
    """Lightning's own, of which the folder may have been moved or copied since: what is restored of another
    place is looked for in this one. Left to itself it takes the best so far to be lost."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what `state_dict` told, by the names of its files alone."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        moved = {**state_dict, "dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[name] = here(moved.get(name) or "")
        moved["best_k_models"] = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(moved)


class CheckpointBetweenBatches(L.Callback):
    """Checkpoints within an epoch, and a fit that Ctrl-C stops when the batch under way is done, with a
    checkpoint from which it goes on.

    seconds  Between two checkpoints of one process. Combined, whose clocks differ, leave none but at the
             end of an epoch.

    A fit that is broken off within a batch has given that batch out and not learnt from it. At an epoch's
    end, and during its validation, the epoch is brought to its end, which leaves a checkpoint of its own.
    What takes longer than `PATIENCE` (a steering probe, a long validation) is broken off, and so is
    everything by a second Ctrl-C: the fit goes on from the last checkpoint then. Raises KeyboardInterrupt,
    which Lightning ends the process on. Put it behind callbacks that do something after a batch: of what
    follows it, nothing is done.
    """

    def __init__(self, path: Path, seconds: float = 60.0) -> None:
        self.path, self.seconds, self.asked = path, seconds, False
        self._before: Any = None
        self._before_late: Any = None
        self._saved = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        # of several processes each would stop at another batch and wait for the others
        self._saved = time.monotonic()
        alone = trainer.world_size == 1 and threading.current_thread() is threading.main_thread()
        if alone:
            self._before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._before_late = signal.signal(signal.SIGALRM, self._late)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _late(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        raise KeyboardInterrupt

    def on_train_batch_end(self, trainer: L.Trainer, *given: Any) -> None:
        # saved behind the last batch, the epoch would count as done, its validation not; and between two
        # steps of the optimizer, gradients that no checkpoint holds would be lost
        batch_index = given[-1]
        if trainer.is_last_batch or (batch_index + 1) % trainer.accumulate_grad_batches:
            return
        due = trainer.world_size == 1 and time.monotonic() - self._saved >= self.seconds
        if self.asked or due:
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
        if self.asked:
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if self.asked:
            raise KeyboardInterrupt

    def on_exception(self, *_: Any) -> None:
        self._restore()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self._restore()
        if self.asked:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
        if self._before_late is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before_late)
            self._before_late = None


def resuming(last: Path, seconds: float = 60.0) -> list[L.Callback]:
    """What keeps a fit's place in `last` after each epoch and within it, behind its other callbacks.
    With `DurableCheckpoints` among the plugins, and `ckpt_path=last` where the file is there."""
    # one of its own beside the best of a fit: `save_last` leaves out the epochs that are not the best
    of_epochs = RelocatableCheckpoint(last.parent, filename=last.stem, enable_version_counter=False)
    return [of_epochs, CheckpointBetweenBatches(last, seconds)]
