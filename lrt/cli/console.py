"""What a person watches: numbered steps, progress, and lines of text where output is no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lrt.cli.terminal import escaped
from lrt.pipeline.monitor import Advance, Monitor

log = logging.getLogger(__name__)
LINE_EVERY = 30.0  # seconds between two lines of progress where output is no terminal


class ConsoleMonitor(Monitor):
    """Shows steps and progress on a console.

    steps   How many numbered steps the run has.
    shown   False on the further processes of a distributed fit.
    """

    def __init__(self, console: Console, steps: int, shown: bool) -> None:
        super().__init__()
        self.console, self.steps, self.shown = console, steps, shown
        self._step = 0

    def step(self, what: str) -> None:
        self._step += 1
        if self.shown:
            self.console.print(f"[bold]\\[{self._step}/{self.steps}][/] {escaped(what)}", highlight=False)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Advance]:
        """A bar on a terminal, a line every 30 seconds elsewhere; never over 100%."""
        if not self.shown:
            yield lambda _: None
        elif self.console.is_terminal:
            with self._bar(what, total) as advance:
                yield advance
        else:
            yield Lines(what, total).advance

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        if self.shown and self.console.is_terminal:
            with self.console.status(what):
                yield
        else:
            yield

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Advance]:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        done = 0
        with bar:
            task = bar.add_task(what, total=total)

            def advance(count: int) -> None:
                nonlocal done
                done += count
                bar.update(task, completed=min(done, total))

            yield advance


class Lines:
    """Progress as lines in the log: how much, how fast, and the time left."""

    def __init__(self, what: str, total: int, every: float = LINE_EVERY) -> None:
        self.what, self.total, self.every = what, total, every
        self.done = 0
        self._start = self._last = time.monotonic()

    def advance(self, count: int) -> None:
        """Counts units just done; logs a line where the last one is old enough."""
        self.done += count
        now = time.monotonic()
        if now - self._last < self.every:
            return
        self._last = now
        done, rate = min(self.done, self.total), self.done / (now - self._start)
        left = (self.total - done) / rate if rate else 0.0
        log.info(
            "%s: %s of %s (%.0f%%), %s a second, %s left",
            self.what,
            f"{done:,}",
            f"{self.total:,}",
            100 * done / max(self.total, 1),
            f"{rate:,.3g}",
            time.strftime("%H:%M:%S", time.gmtime(left)),
        )
