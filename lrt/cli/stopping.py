"""Signals that stop a run: what was finished is kept, and no process of it stays behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lrt.storage.checkpoints import raise_stopped, take_signals


@contextmanager
def stoppable() -> Iterator[None]:
    """Signals that ask a process to stop raise Stopped within it, as Ctrl-C does.

    What Lightning makes of it, an exit of its own, is a stop again.
    """
    with take_signals(raise_stopped):
        try:
            yield
        except SystemExit as left:
            if isinstance(left.__context__, KeyboardInterrupt):
                raise left.__context__ from None
            raise


def end_with_parent(seconds: float = 1.0) -> None:
    """Ends this process soon after the one that started it, whatever it is doing then.

    A process of a distributed fit may wait for the first one in a library, where no exception reaches it.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
