"""Recording alone: the whole store, one share of it, or the shares put together.

python -m lrt.runtime.record [record.share=0/4 | record.merge=true] [the settings of train.py]

Shares are static: process i of n records every n-th shard of the plan and knows of no other process, so
they may be plain processes, a SLURM array or torchrun's workers, on one machine or on several. The store
that is made of them is to the byte the one that a single process records.
"""

from __future__ import annotations

import os
import sys

import torch
from omegaconf import DictConfig
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass

from lrt.activations import Share
from lrt.runtime.entry import command
from lrt.runtime.recorded import Recorded
from lrt.runtime.schema import read_beside
from lrt.runtime.session import Session


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
    def chosen(self) -> Share | None:
        """The share that is meant. Raises ValueError for none that there is."""
        if self.share is None:
            return None
        if self.share == "auto":
            return Share.of_environment(os.environ)
        return Share.parse(self.share)


def main(composed: DictConfig) -> None:
    """Records, and says where it lies and what comes next."""
    settings, rest = read_beside(composed, "record", RecordSettings)
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # `cuda` is this process's own device
    with Session.of(rest, "record") as session:
        run = Recorded(session.config, session)
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
