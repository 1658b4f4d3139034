"""One recording split over several workers: each records its share of the shards in a folder of its own.

Worker `i` of `n` records every `n`-th shard of the plan, beginning with the `i`-th. Workers need nothing of
each other, so they may be plain processes, a SLURM array or torchrun's workers, on one machine or on several.
`record` moves their shards into the store, whose bytes are those of a recording by a single process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lrt.activations.errors import StoreMissing
from lrt.activations.journal import journal_versions, read_journal
from lrt.activations.locks import one_recorder
from lrt.activations.manifest import Shard
from lrt.activations.plan import RecordingPlan, ShardPlan
from lrt.errors import InvalidValue
from lrt.storage.durable import sweep, sync_folder

SHARES = "shares"


@dataclass(frozen=True)
class RecordingWorker:
    """Worker `number` (from zero) of `count`. Raises InvalidValue for a number outside the count."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise InvalidValue(
                f"share={self.number}/{self.count}; the worker's number must be from 0 to COUNT - 1, and "
                "the count at least 1"
            )

    @classmethod
    def parse(cls, text: str) -> RecordingWorker:
        """Read `NUMBER/COUNT`: `0/4` is the first of four. Raises InvalidValue for any other text."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not match:
            raise InvalidValue(f"share={text!r}; write NUMBER/COUNT, counted from zero, as in 0/4")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> RecordingWorker:
        """The worker that this process is under torchrun, a SLURM array, srun, or srun within an array.

        Raises InvalidValue if the environment is of none of these.
        """

        def number_in(name: str, default: int | None = None) -> int | None:
            return int(environment[name]) if name in environment else default

        number, count = number_in("RANK"), number_in("WORLD_SIZE")
        if number is not None and count is not None:
            return cls(number, count)
        task, tasks = number_in("SLURM_ARRAY_TASK_ID"), number_in("SLURM_ARRAY_TASK_COUNT")
        process, processes = number_in("SLURM_PROCID"), number_in("SLURM_NTASKS")
        if (task is None or tasks is None) and (process is None or processes is None):
            raise InvalidValue(
                "share=auto needs RANK and WORLD_SIZE (torchrun), SLURM_ARRAY_TASK_ID and "
                "SLURM_ARRAY_TASK_COUNT, or SLURM_PROCID and SLURM_NTASKS in the environment; without them, "
                "write NUMBER/COUNT, as in 0/4"
            )
        if task is None or tasks is None:
            task, tasks = 0, 1
        else:
            first, step = number_in("SLURM_ARRAY_TASK_MIN", 0), number_in("SLURM_ARRAY_TASK_STEP", 1)
            task = (task - (first or 0)) // (step or 1)
        if process is None or processes is None:
            process, processes = 0, 1
        return cls(task * processes + process, tasks * processes)

    def of(self, shards: Sequence[ShardPlan]) -> list[ShardPlan]:
        """The shards that this worker records."""
        return list(shards[self.number :: self.count])

    def folder(self, store: Path) -> Path:
        """Where this worker records them, within the store's folder."""
        return store / SHARES / f"{self.number}-of-{self.count}"


def share_folders(store: Path) -> list[Path]:
    """The workers' folders that exist in a store's folder."""
    return sorted(path for path in (store / SHARES).glob("*-of-*") if path.is_dir())


def versions_of_shares(store: Path) -> Mapping[str, str] | None:
    """Library versions of the first share with a readable journal."""
    return next(filter(None, map(journal_versions, share_folders(store))), None)


def take_in_shares(store: Path, plan: RecordingPlan, done: dict[str, Shard], *, complete: bool) -> None:
    """Move the shards that workers have recorded into the store's folder, and add them to `done`.

    Waits for workers that are still recording. With `complete`, raises StoreMissing, and moves nothing, if
    any
    shard of the plan is missing. Interrupted at any moment, it can be repeated: a file is whole in one of the
    two places, and its worker's journal stays until the store is complete.
    """
    offered: dict[str, tuple[Path, Shard]] = {}
    with ExitStack() as locks:
        for place in share_folders(store):
            locks.enter_context(one_recorder(place, wait=True))
            sweep(place)
            for shard in read_journal(place, plan, moved_to=store).values():
                if shard.file not in done:
                    offered.setdefault(shard.file, (place, shard))
        if complete:
            _check_complete(store, plan, {*done, *offered})
        for place, shard in offered.values():
            if (place / shard.file).is_file():
                os.replace(place / shard.file, store / shard.file)  # noqa: PTH105 (as in durable.py)
            done[shard.file] = shard
        sync_folder(store)


def _check_complete(store: Path, plan: RecordingPlan, done: Collection[str]) -> None:
    shards = plan.shards
    missing = [shard.file for shard in shards if shard.file not in done]
    if not missing:
        return
    hints = []
    for count in sorted({int(place.name.split("-of-")[1]) for place in share_folders(store)}):
        workers = (RecordingWorker(number, count) for number in range(count))
        unfinished = [
            f"{worker.number}/{count}"
            for worker in workers
            if any(shard.file in missing for shard in worker.of(shards))
        ]
        hints.append(f"share={' and '.join(unfinished)}")
    raise StoreMissing(
        f"{len(missing)} of {len(shards)} shards of {store} are not recorded yet ({', '.join(missing[:4])}"
        f"{', ...' if len(missing) > 4 else ''}). Record {', or '.join(hints) or 'their shares'}, or "
        "record all of the store in one process"
    )
