"""What Lightning's Trainer iterates over: one process's batches of a stream, in order or shuffled."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, Protocol

from lrt.activations.prefetch import prefetched
from lrt.activations.windows import Batch
from lrt.errors import InvalidValue


class Stream(Protocol):
    """What a loader reads: `RowStream`, or `PassStream` without a store.

    order  Version of the order: a place in one order means other rows in another.
    """

    batch_rows: int

    @property
    def order(self) -> int | str: ...

    @property
    def rows(self) -> int: ...

    def __len__(self) -> int: ...

    def batches(self, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1) -> Generator[Batch]: ...


Reader = Callable[[Generator[Batch]], Generator[Batch]]


def _as_it_comes(batches: Generator[Batch]) -> Generator[Batch]:
    return batches


class InOrder:
    """One process's batches of a split, from first to last at every iteration.

    A process without a batch of its own gets one without rows: it would skip the end of the epoch, at which
    the processes sum their scores, and the others would wait for it.

    read  Reads batches ahead (`prefetched`); None reads each when it is asked for.
    """

    def __init__(
        self, stream: Stream, rank: int = 0, world: int = 1, *, read: Reader | None = prefetched
    ) -> None:
        self._stream, self._rank, self._world, self._read = stream, rank, world, read or _as_it_comes

    def __len__(self) -> int:
        mine = len(range(self._rank, len(self._stream), self._world))
        return mine or min(1, len(self._stream))

    def __iter__(self) -> Iterator[Batch]:
        if self._rank < len(self._stream):
            batches = self._stream.batches(0, 0, self._rank, self._world)
            yield from self._read(batches)
        elif len(self._stream):
            (first,) = islice(self._stream.batches(), 1)
            yield {name: values[:0] for name, values in first.items()}


class Resumable:
    """One process's shuffled epochs, which can be resumed within an epoch: the Trainer's dataloader.

    Lightning saves `state_dict` in its checkpoints, loads it on resume, and calls `sampler.set_epoch` before
    each epoch. The place is (epoch, batches done). A resumed epoch loads the one window with its next batch.
    A batch that was read ahead counts as done when it is handed out.

    read  Reads batches ahead (`prefetched`); None reads each when it is asked for.

    Raises InvalidValue for fewer batches than processes.
    """

    def __init__(
        self, stream: Stream, rank: int = 0, world: int = 1, *, read: Reader | None = prefetched
    ) -> None:
        if len(stream) < world:
            raise InvalidValue(
                f"the train split has {stream.rows} rows: {len(stream)} batches of "
                f"batches.rows={stream.batch_rows} for {world} processes; lower batches.rows, or raise "
                "corpus.tokens.train"
            )
        self._stream, self._rank, self._world, self._read = stream, rank, world, read or _as_it_comes
        self._epoch = 0
        self._done = 0

    def __len__(self) -> int:
        """Batches in an epoch of this process; the same for every process, or DDP would hang."""
        return len(self._stream) // self._world

    def __iter__(self) -> Iterator[Batch]:
        # a generator, so that nothing happens before the first batch: Lightning creates unused iterators
        if self._done >= len(self):
            self._epoch, self._done = self._epoch + 1, 0
        batches = self._read(self._stream.batches(self._epoch, self._done, self._rank, self._world))
        with closing(batches):
            # the first processes may have one batch more than the others
            for _, batch in zip(range(len(self) - self._done), batches, strict=False):
                # counted before it is yielded: a checkpoint written while it is in use is after it
                self._done += 1
                yield batch

    @property
    def sampler(self) -> Resumable:
        """The object on which Lightning calls `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`, unless it is the current one."""
        if epoch != self._epoch:
            self._epoch, self._done = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """The place, and the settings under which it means these rows."""
        return {
            "epoch": self._epoch,
            "done": self._done,
            "world": self._world,
            "batch_rows": self._stream.batch_rows,
            "order": self._stream.order,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place of a `state_dict`. Raises InvalidValue if batches have other rows now."""
        current = self.state_dict()
        if state.get("order") != current["order"]:
            raise InvalidValue(
                "the checkpoint's fit read its rows in another order, from a store where this one reads them "
                "from the models (recording.states), or by another version; delete it and run the command "
                "again to fit from the start"
            )
        for name, setting in (("world", "trainer.devices"), ("batch_rows", "batches.rows")):
            if state[name] != current[name]:
                raise InvalidValue(
                    f"the checkpoint was written with {setting}={state[name]}, but this run has "
                    f"{setting}={current[name]}; resume with {setting}={state[name]}"
                )
        self._epoch, self._done = int(state["epoch"]), int(state["done"])
