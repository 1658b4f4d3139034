"""One recording by several processes or machines: each records its share of the shards, and the shares
are put together into the store that one process would have written.

RecordingWorker `i` of `n` is every `n`-th shard of the plan from the `i`-th on, in a folder of its own within the
store's: what a process does depends on no other, so plain processes, a SLURM array and torchrun's workers
serve alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrt.activations.manifest import ShardPlan

SHARES = "shares"


@dataclass(frozen=True)
class RecordingWorker:
    """RecordingWorker `number` (from zero) of `count`. Raises ValueError for numbers that are none."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(
                f"share {self.number}/{self.count} is none: of {self.count} shares the numbers go from 0 to "
                f"{self.count - 1}"
            )

    @classmethod
    def parse(cls, text: str) -> RecordingWorker:
        """`0/4` is the first of four. Raises ValueError for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found:
            raise ValueError(f"share={text!r}; write NUMBER/COUNT with numbers from zero, as 0/4")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> RecordingWorker:
        """The share of a process that torchrun, a SLURM array, srun, or srun within an array started. Raises
        ValueError where none of them has.
        """

        def told(name: str, default: int | None = None) -> int | None:
            return int(environment[name]) if name in environment else default

        number, count = told("RANK"), told("WORLD_SIZE")
        if number is not None and count is not None:
            return cls(number, count)
        task, tasks = told("SLURM_ARRAY_TASK_ID"), told("SLURM_ARRAY_TASK_COUNT")
        process, processes = told("SLURM_PROCID"), told("SLURM_NTASKS")
        if (task is None or tasks is None) and (process is None or processes is None):
            raise ValueError(
                "share=auto, and the environment has none of RANK and WORLD_SIZE (torchrun), "
                "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, SLURM_PROCID and SLURM_NTASKS; write it "
                "as 0/4"
            )
        if task is None or tasks is None:
            task, tasks = 0, 1
        else:
            first, step = told("SLURM_ARRAY_TASK_MIN", 0), told("SLURM_ARRAY_TASK_STEP", 1)
            task = (task - (first or 0)) // (step or 1)
        if process is None or processes is None:
            process, processes = 0, 1
        return cls(task * processes + process, tasks * processes)

    def of(self, shards: Sequence[ShardPlan]) -> list[ShardPlan]:
        """The shards that are this share's."""
        return list(shards[self.number :: self.count])

    def folder(self, store: Path) -> Path:
        """Where it is recorded."""
        return store / SHARES / f"{self.number}-of-{self.count}"


def share_folders(store: Path) -> list[Path]:
    """Folders of the shares that lie in a store's folder."""
    return sorted(path for path in (store / SHARES).glob("*-of-*") if path.is_dir())
