"""What a stage reports while it works: its name, its progress, the seconds it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Advance = Callable[[int], None]


class Monitor:
    """Measures stages and shows nothing; `lrt.cli.console` has the one that a person watches."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._nested = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage, adding up where it is entered more than once; a stage within it is timed apart."""
        start, outer = time.perf_counter(), self._nested
        self._nested = 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent - self._nested, 2)
            self._nested = outer + spent

    def step(self, what: str) -> None:
        """Announces the next numbered step of the run."""

    def progress(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Yields a function to be called with the number of units just done, of `total`."""
        del what, total
        return nullcontext(lambda _: None)

    def working(self, what: str) -> AbstractContextManager[None]:
        """For a task whose length is not known."""
        del what
        return nullcontext()
