"""Ratios of two pieces of work that are run turn by turn, so that both see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ratio   Median over the runs; higher is better for us in every row.
    spread  Least and largest ratio of the runs.
    what    What is divided by what, in words.
    aim     What we hold it against; None where nothing was promised.
    more    Further figures of the same runs.
    """

    name: str
    ratio: float
    spread: tuple[float, float]
    what: str
    aim: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def turns(
    ours: Callable[[], object], theirs: Callable[[], object], runs: int
) -> tuple[list[float], list[float]]:
    """Seconds of both in `runs` turns."""
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
    """Their seconds over ours, turn by turn."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    told = {
        "seconds": round(statistics.median(ours), 4),
        "seconds_other": round(statistics.median(theirs), 4),
    }
    return Row(name, statistics.median(ratios), (min(ratios), max(ratios)), what, aim, told | more)
