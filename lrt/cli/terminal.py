"""Commands without Hydra on a terminal: results on stdout, the log and errors on stderr."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from lrt.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""What the system refuses and a user can fix: a full disk, a quota, missing permissions."""
PATHS = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""A path of the user's where something else is."""


class Commands(TyperGroup):
    """The commands of `lrt`. What a user can fix is printed without a traceback, and the exit code is 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            fault: Exception = error
        except OSError as error:
            if error.errno not in (*SYSTEM, *PATHS):
                raise
            fault = error
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise fault
        print_error(fault)
        sys.exit(1)


def plain_console(stderr: bool = False) -> Console:
    """A console whose lines are not broken at the terminal's edge, so that they can be copied."""
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=True, highlight=False)


def escaped(text: object) -> str:
    """Text whose brackets are not rich's markup."""
    return str(text).replace("[", r"\[")


def print_error(error: Exception) -> None:
    """Prints what a user can fix."""
    plain_console(stderr=True).print(
        f"[bold red]error:[/] {escaped(error)}\n[dim](HYDRA_FULL_ERROR=1 shows where it was raised)[/]",
    )


def open_terminal(level: int = logging.INFO) -> Console:
    """The console of results. From here on the log of `lrt` from `level` on goes to stderr, a line each."""
    from rich.logging import RichHandler

    logger = logging.getLogger("lrt")
    logger.handlers = [
        RichHandler(console=plain_console(stderr=True), show_path=False, show_time=False, show_level=False)
    ]
    logger.setLevel(level)
    logger.propagate = False
    return plain_console()
