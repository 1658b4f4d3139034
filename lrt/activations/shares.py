"""One recording by several processes or machines: each records its share of the shards, and the shares
are put together into the store that one process would have written.

Share `i` of `n` is every `n`-th shard of the plan from the `i`-th on, in a folder of its own within the
store's: what a process does depends on no other, so plain processes, a SLURM array and torchrun's workers
serve alike.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrt.activations.manifest import ShardPlan

SHARES = "shares"
# names of a process's number and of how many there are, and of the first number where it is not zero
STARTERS = (
    ("RANK", "WORLD_SIZE", ""),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("SLURM_PROCID", "SLURM_NTASKS", ""),
)


@dataclass(frozen=True)
class Share:
    """Share `number` (from zero) of `count`. Raises ValueError for numbers that are none."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(
                f"share {self.number}/{self.count} is none: of {self.count} shares the numbers go from 0 to "
                f"{self.count - 1}"
            )

    @classmethod
    def parse(cls, text: str) -> Share:
        """`0/4` is the first of four. Raises ValueError for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found:
            raise ValueError(f"share={text!r}; write NUMBER/COUNT with numbers from zero, as 0/4")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Share:
        """The share of a process that torchrun, a SLURM array or srun started. Raises ValueError where none
        of them has.
        """
        for number, count, first in STARTERS:
            if number in environment and count in environment:
                return cls(int(environment[number]) - int(environment.get(first, 0)), int(environment[count]))
        told = ", ".join(f"{number} and {count}" for number, count, _ in STARTERS)
        raise ValueError(f"share=auto, and the environment has none of {told}; write it as 0/4")

    def of(self, shards: Sequence[ShardPlan]) -> list[ShardPlan]:
        """The shards that are this share's."""
        return list(shards[self.number :: self.count])

    def folder(self, store: Path) -> Path:
        """Where it is recorded."""
        return store / SHARES / f"{self.number}-of-{self.count}"


def share_folders(store: Path) -> list[Path]:
    """Folders of the shares that lie in a store's folder."""
    return sorted(path for path in (store / SHARES).glob("*-of-*") if path.is_dir())


def remove_shares(store: Path) -> None:
    """Removes what is left of shares whose shards the store holds."""
    shutil.rmtree(store / SHARES, ignore_errors=True)
