"""One process at a time: lock files, which the system releases when their process ends.

A lock is a `flock` on a regular file opened for writing. Network file systems carry that between machines
(NFS as a byte-range lock, Lustre and GPFS if mounted with `flock`); a lock on a folder stays on one machine.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from lrt.errors import UserError
from lrt.storage.durable import open_own

log = logging.getLogger(__name__)

LOCK = ".lock"
"""The lock file of a folder that one process writes at a time."""


class NotLockable(UserError):
    """A file system without locks; the message names the file."""


@contextmanager
def locked(file: Path, activity: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file, which is created where it is missing and stays afterwards.

    The file names its holder for people: host, process and time. Only the system's lock counts.

    Args:
        activity: what its holder does, for the log: "making artifacts/x".
        wait: if another process holds the lock, wait for it, with a line in the log.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false; its `strerror` is the holder.
        NotLockable: the file system has no locks.
        LinkRefused: the file is a symbolic link.
        OSError: the file cannot be created or written.
    """
    with open_own(file, "a+") as opened:
        try:
            _lock(opened.fileno(), file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            opened.seek(0)
            holder = _holder(opened.read())
            if not wait:
                raise BlockingIOError(error.errno, holder, str(file)) from None
            log.warning("Waiting for another process that is %s: %s", activity, holder)
            _lock(opened.fileno(), file, fcntl.LOCK_EX)
        opened.seek(0)
        opened.truncate()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"host": platform.node(), "process": os.getpid(), "since": since}, opened)
        opened.flush()
        yield


def _lock(descriptor: int, file: Path, operation: int) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise NotLockable(
            f"{file} cannot be locked: its file system has no locks ({error.strerror}). Set "
            "paths.artifacts to one that has them, or have this one mounted with locks"
        ) from error


def _holder(text: str) -> str:
    try:
        facts = json.loads(text)
        return f"process {facts['process']} on {facts['host']}, since {facts['since']}"
    except (ValueError, TypeError, KeyError):  # its holder has not written it yet
        return "not named"


@contextmanager
def one_writer(
    folder: Path,
    activity: str,
    busy: type[Exception],
    unwritable: type[Exception],
    *,
    wait: bool = False,
) -> Iterator[None]:
    """Create the folder and hold it for this process.

    activity  What a writer does with the folder: "recording into".
    wait      If another process holds the folder, wait for it, with a line in the log.

    Raises `unwritable` if the folder cannot be created or written, and `busy` if another process holds it and
    `wait` is false.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, "no permission to write", str(folder))
            stack.enter_context(locked(folder / LOCK, f"{activity} {folder}", wait=wait))
        except BlockingIOError as error:
            raise busy(
                f"another process is {activity} {folder} ({error.strerror}): wait for it, or end it and "
                "run again"
            ) from error
        except OSError as error:
            raise unwritable(
                f"the folder {folder} cannot be written ({error.strerror}); fix its permissions or "
                "set paths.artifacts to another place"
            ) from error
        yield
