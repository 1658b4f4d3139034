"""Shards go to the disk in a thread, while the models run over the next one."""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lrt.activations.errors import DiskTooSmall
from lrt.activations.journal import write_journal
from lrt.activations.manifest import Shard
from lrt.activations.plan import RecordingPlan, ShardPlan
from lrt.activations.quantised import Quantised, massive_rows
from lrt.activations.store import shard_header, token_digest
from lrt.storage.durable import write_durably

log = logging.getLogger(__name__)


class ShardWriter:
    """Writes shards one after another, and lists each in the folder's journal once it is on the disk.

    At most one shard is being written. So two are in memory, that one and the one that the models fill. A
    write that failed is raised by the next call, in the caller's thread; what it wrote is whole or absent.
    The body's end waits for the last one.

    done      The journal's shards by file name; finished ones are added.
    hardware  What the models run on, for the journal.
    """

    def __init__(self, folder: Path, plan: RecordingPlan, done: dict[str, Shard], hardware: str) -> None:
        self._folder, self._plan, self._done, self._hardware = folder, plan, done, hardware
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._writing: Future[None] | None = None
        self._buffers: list[dict[str, Tensor]] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            self._wait()
        elif self._writing is not None and (failed := self._writing.exception()) is not None:
            log.warning("the last shard could not be written either: %s", failed)

    def buffer(self, rows: int) -> dict[str, Tensor]:
        """Memory for the plan's columns of so many tokens, to fill and `put`."""
        if len(self._buffers) < 2:
            most = max(shard.sequences for shard in self._plan.shards) * self._plan.context
            columns = self._plan.columns.items()
            self._buffers.append({n: torch.empty(c.shape(most), dtype=c.dtype) for n, c in columns})
        else:  # the one that is not being written
            self._buffers.reverse()
        return {name: column[:rows] for name, column in self._buffers[-1].items()}

    def put(self, shard: ShardPlan, columns: dict[str, Tensor], non_finite: Mapping[str, int]) -> None:
        """Write a shard's columns, which are those of `buffer`, after waiting for the shard before it.

        non_finite  Number of tokens whose state is infinite or NaN, by column.

        Raises what the writing of the shard before it raised: DiskTooSmall for a full disk.
        """
        self._wait()
        self._writing = self._pool.submit(self._write, shard, columns, non_finite)

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, shard: ShardPlan, columns: dict[str, Tensor], non_finite: Mapping[str, int]) -> None:
        with disk_may_fill(self._folder):
            written = _written(self._folder, self._plan, shard, _stored(columns, self._plan), non_finite)
            self._done[shard.file] = replace(written, hardware=self._hardware)
            write_journal(self._folder, self._plan, self._done)


def _stored(columns: dict[str, Tensor], plan: RecordingPlan) -> dict[str, Tensor]:
    """The tensors of a shard's file, made from its columns."""
    if plan.states == "native":
        return columns
    stored = {}
    for name, column in plan.columns.items():
        if not column.holds_states:
            stored[name] = columns[name]
            continue
        quantised = Quantised.of(columns[name], columns[f"norm.{name}"])
        stored[name] = quantised.values
        stored |= {f"{name}.{part}": getattr(quantised, part) for part in ("step", "massive", "where")}
    return stored


def _written(
    folder: Path,
    plan: RecordingPlan,
    shard: ShardPlan,
    tensors: dict[str, Tensor],
    non_finite: Mapping[str, int],
) -> Shard:
    facts: dict[str, Any] = {"tokens": token_digest([tensors[name] for name in plan.token_columns])}
    massive = {
        name.removeprefix("norm."): int(massive_rows(norms).sum())
        for name, norms in tensors.items()
        if name.startswith("norm.")
    }

    def write(temp: Path) -> None:
        save_file(tensors, temp)
        facts.update(bytes=temp.stat().st_size, sha256=_digest(temp, tensors))

    write_durably(folder / shard.file, write)
    rows = len(tensors["position"])
    return Shard(shard.file, shard.split, rows, non_finite=non_finite, massive=massive, **facts)


def _digest(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the file that these tensors were saved in; only its header is read again."""
    header, begin = shard_header(path)
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(begin))
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def disk_may_fill(folder: Path) -> Iterator[None]:
    """Turn a full disk into DiskTooSmall."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskTooSmall(
            f"the disk is full while recording into {folder} ({error}); the finished shards stay: make "
            "room and run the same command again"
        ) from error
