import threading
from collections.abc import Generator

import pytest
import torch

from lrt.activations import Batch
from lrt.activations.prefetch import prefetched


class Made:
    """Batches numbered from 0, and how many were made, by which threads, and whether they were closed."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.count, self.fails_at = count, fails_at
        self.number, self.closed, self.threads = 0, False, set[int]()

    def batches(self) -> Generator[Batch]:
        try:
            for number in range(self.count):
                if number == self.fails_at:
                    raise OSError("the disk is gone")
                self.number = number + 1
                self.threads.add(threading.get_ident())
                yield {"source": torch.tensor([number])}
        finally:
            self.closed = True


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_batches_are_the_same_in_the_same_order(count: int) -> None:
    made = Made(count)
    assert [int(b["source"]) for b in prefetched(made.batches())] == list(range(count))
    assert made.closed
    assert threading.get_ident() not in made.threads


def test_no_more_are_made_ahead_than_asked_for() -> None:
    made = Made(9)
    batches = prefetched(made.batches(), ahead=3)
    next(batches)
    batches.close()  # what was begun is finished
    assert made.number <= 1 + 3
    assert made.closed


def test_a_batch_is_made_while_the_one_before_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def batches() -> Generator[Batch]:
        for event in begun:
            event.set()
            yield {}

    for number, _ in enumerate(prefetched(batches())):
        # in one thread the next batch would be begun only after this body
        assert begun[min(number + 1, 2)].wait(10)


def test_a_failure_comes_where_its_batch_would() -> None:
    made = Made(5, fails_at=3)
    batches = prefetched(made.batches())
    assert [int(next(batches)["source"]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone"):
        next(batches)
    assert made.closed


def test_every_tensor_is_pinned_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []

    def pin(values: torch.Tensor) -> torch.Tensor:
        pinned.append(threading.get_ident())
        return values

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    assert len([*prefetched(Made(4).batches())]) == 4
    assert not pinned
    assert len([*prefetched(Made(4).batches(), pinned=True)]) == 4
    assert len(pinned) == 4
    assert threading.get_ident() not in pinned  # beside the steps
