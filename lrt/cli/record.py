"""Recording alone: the whole store, one share of it, or the shares put together.

python -m lrt.runtime.record [record.share=0/4 | record.merge=true] [the settings of train.py]

Shares are static: process i of n records every n-th shard of the plan and knows of no other process, so
they may be plain processes, a SLURM array or torchrun's workers, on one machine or on several. The store
that is made of them is to the byte the one that a single process of like hardware and threads records.
"""

from __future__ import annotations

import os
import sys

import torch
from lrt.runtime.entry import command
from lrt.runtime.recorded import Recorded
from lrt.runtime.schema import ConfigError, read_beside
from lrt.runtime.session import Session
from omegaconf import DictConfig
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass

from lrt.activations import RecordingWorker
from lrt.activations.manifest import Side
from lrt.models import depth_of, resolve_layer


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RecordSettings:
    """What is recorded.

    share  `NUMBER/COUNT` from zero, or `auto`; none: everything.
    merge  Whether to make the store of its shares.
    """

    share: str | None = None
    merge: bool = False

    def __post_init__(self) -> None:
        if self.share is not None and self.merge:
            raise ValueError(f"record.share={self.share} and record.merge=true are two commands; give one")
        self.chosen  # noqa: B018

    @property
    def chosen(self) -> RecordingWorker | None:
        """The share that is meant. Raises ValueError for none that there is."""
        if self.share is None:
            return None
        if self.share == "auto":
            return RecordingWorker.of_environment(os.environ)
        return RecordingWorker.parse(self.share)


class Recording(Recorded):
    """What is recorded, of a run that trains nothing."""

    def check_trains(self) -> None:
        """The Trainer has no say here, and refuses some environments of SLURM."""

    def blocks_needed(self, side: Side) -> int | None:
        """Up to the deepest that is recorded: what lies above it is not even loaded."""
        spec = getattr(self.config.pair, side)
        named = [getattr(self.config.layers, side), getattr(self.config.recording, side)]
        if any(isinstance(layers, str) for layers in named):  # auto, all
            return None
        depth = depth_of(spec, self.kept_models)
        deepest = (
            resolve_layer(layer, setting, depth, spec.name)
            for layers, setting in zip(named, (f"layers.{side}", f"recording.{side}"), strict=True)
            for layer in layers
        )
        return 1 + max(deepest, default=depth - 1)


def main(composed: DictConfig) -> None:
    """Records, and says where it lies and what comes next."""
    settings, rest = read_beside(composed, "record", RecordSettings)
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # `cuda` is this process's own device
    with Session.of(rest, "record") as session:
        run = Recording(session.config, session)
        if settings.share is not None or settings.merge:
            for side in ("source", "target"):
                if getattr(session.config.pair, side).dtype == "auto":
                    raise ConfigError(
                        f"pair.{side}.dtype=auto: each process would choose for its own machine, and shares "
                        "in different formats make no store; name one, as bfloat16, the same for all shares "
                        "and the merge"
                    )
        run.check()
        if (share := settings.chosen) is not None:
            place = run.record_share(share)
            session.console.print(f"share {share.number}/{share.count}: {place}")
        else:
            store = run.merge_shares() if settings.merge else run.store
            rows = sum(shard.rows for shard in store.manifest.shards)
            session.console.print(f"{rows:,} rows: {store.folder}")


if __name__ == "__main__":
    sys.exit(command(main, "record"))
