"""Recording alone: the whole store, one worker's share of it, or the shares put together.

lrt record [record.share=0/4 | record.merge=true] [the settings of train.py]

Shares are static: worker i of n records every n-th shard of the plan and knows of no other worker. They may
be plain processes, a SLURM array or torchrun's workers, on one machine or several. The store made of them
equals, to the byte, the one that a single process of like hardware and threads records.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass

from lrt.activations import RecordingWorker
from lrt.cli.command import command
from lrt.cli.session import Session
from lrt.config import Config, ConfigError, read_section
from lrt.models import ModelSpec, depth_and_width_of, resolve_layer
from lrt.models.sides import SIDES, Side
from lrt.pipeline import CorpusText, load_pair, plan_layers
from lrt.pipeline.preflight import check_recording
from lrt.pipeline.states import RecordedStates


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RecordSettings:
    """The section `record` of conf/record.yaml.

    share  `NUMBER/COUNT` from zero, or `auto`; null records everything.
    merge  Make the store of its shares.
    """

    share: str | None
    merge: bool

    def __post_init__(self) -> None:
        if self.share is not None and self.merge:
            raise ConfigError(f"record.share={self.share} and record.merge=true are two commands: give one")
        _ = self.worker

    @property
    def worker(self) -> RecordingWorker | None:
        """The worker that is meant; None for all. Raises UserError for an impossible one."""
        if self.share is None:
            return None
        if self.share == "auto":
            return RecordingWorker.of_environment(os.environ)
        return RecordingWorker.parse(self.share)


def blocks_needed(config: Config, side: Side) -> int | None:
    """Decoder blocks up to the deepest recorded layer: what lies above is not even loaded. None for all."""
    spec = getattr(config.pair, side)
    if not isinstance(spec, ModelSpec):  # several source models: all blocks of each
        return None
    named = [config.layers.of_one_model(side), getattr(config.recording, side)]
    if any(isinstance(layers, str) for layers in named):  # auto, all
        return None
    depth, _ = depth_and_width_of(spec, Path(config.paths.models))
    deepest = (
        resolve_layer(layer, setting, depth, spec.name)
        for layers, setting in zip(named, (f"layers.{side}", f"recording.{side}"), strict=True)
        for layer in layers
    )
    return 1 + max(deepest, default=depth - 1)


def main(composed: DictConfig) -> None:
    """Records, and says where the store is."""
    settings, rest = read_section(composed, "record", RecordSettings)
    # `cuda` is this process's own device; where each sees its own alone, that is the first
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
    if torch.cuda.is_available() and local.isdecimal():
        torch.cuda.set_device(int(local) % torch.cuda.device_count())
    with Session.of(composed, steps=2, settings=rest) as session:
        config, cache, monitor = session.config, session.cache, session.monitor
        if not config.recording.keeps_states:
            raise ConfigError("recording.states=none keeps no states, so there is no store to record")
        if settings.share is not None or settings.merge:
            for setting, spec in config.pair.by_setting.items():
                if spec.dtype == "auto":
                    raise ConfigError(
                        f"{setting}.dtype=auto: each process would choose for its own machine, and shares in "
                        "different formats make no store; name one, as bfloat16, the same for all shares and "
                        "the merge"
                    )
        monitor.step(f"Loading the pair: {config.pair.label}")
        needed = {side: blocks for side in SIDES if (blocks := blocks_needed(config, side)) is not None}
        with monitor.stage("load pair"):
            pair = load_pair(config.pair, session.models, needed, layers=config.layers)
            layers = plan_layers(config.layers, config.recording, pair)
            check_recording(pair, (), layers)
        text = CorpusText(config.corpus, pair, cache, monitor)
        states = RecordedStates(pair, layers.recorded, text, config.recording, cache, monitor)
        monitor.step(f"Recording states: {states.folder}")
        if (worker := settings.worker) is not None:
            place = states.record_share(worker)
            session.print(f"share {worker.number}/{worker.count}: {place}")
        else:
            store = states.merge_shares() if settings.merge else states.record()
            tokens = sum(shard.rows for shard in store.manifest.shards)
            session.print(f"{tokens:,} tokens: {store.folder}")
            session.leave_latest({"store": store.folder})


if __name__ == "__main__":
    sys.exit(command(main, "record"))
