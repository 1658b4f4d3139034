"""Speed ratios of two pieces of work. They run in alternation, so both see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ratio   Median over the runs. Higher is better for lrt in every row.
    spread  Least and largest ratio of the runs.
    what    Definition of the ratio: numerator over denominator.
    aim     Ratio to reach; None for none.
    more    Further figures of the same runs.
    """

    name: str
    ratio: float
    spread: tuple[float, float]
    what: str
    aim: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one run, to the end of what it launched on a GPU."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def turns(
    ours: Callable[[], object], theirs: Callable[[], object], runs: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, run in alternation `runs` times."""
    ours_took, theirs_took = [], []
    for _ in range(runs):
        theirs_took.append(seconds(theirs))
        ours_took.append(seconds(ours))
    return ours_took, theirs_took


def row(
    name: str,
    what: str,
    ours: list[float],
    theirs: list[float],
    aim: float | None = None,
    **more: Any,
) -> Row:
    """A row of their seconds over ours, run by run."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    medians = {
        "seconds": round(statistics.median(ours), 4),
        "seconds_other": round(statistics.median(theirs), 4),
    }
    return Row(name, statistics.median(ratios), (min(ratios), max(ratios)), what, aim, medians | more)
