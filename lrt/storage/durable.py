"""Files that are either whole under their final name or not there, whenever the power goes.

Temp name in the same folder, flush, fsync of the file, `os.replace`, fsync of the folder. Leaving
out the first fsync can leave a rightly named file of zeros.
"""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TEMP_MARK = ".tmp-"


def _node() -> str:
    """This machine, and the space that its process numbers are of: containers may share a name."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32] + re.sub(r"\D", "", space)


_NODE = _node()


def write_durably(path: Path, content: bytes | Callable[[Path], None]) -> None:
    """Puts a file in `path`'s place: these bytes, or what the function writes to the path it is given.

    Whatever goes wrong, `path` holds its old content or the new one in full, and no temp file stays
    unless the process is killed; the next that writes `path` on this machine removes that. Raises OSError
    where the folder is missing, cannot be written, or the disk is full.
    """
    temp = path.with_name(f"{path.name}{TEMP_MARK}{_NODE}-{os.getpid()}")
    for left in path.parent.glob(f"{glob.escape(path.name)}{TEMP_MARK}{_NODE}-*"):
        if _is_dead(left.name.rpartition("-")[2]):
            left.unlink(missing_ok=True)
    try:
        if isinstance(content, bytes):
            temp.write_bytes(content)
        else:
            with _disk_may_fill(path):
                content(temp)
        with temp.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temp, path)  # noqa: PTH105 (the call that crash tests count)
        sync_folder(path.parent)
    finally:
        temp.unlink(missing_ok=True)


def _is_dead(process: str) -> bool:
    """Whether no process of this machine has that number."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, PermissionError, OverflowError):  # none of ours, or another user's
        return False
    return False


@contextmanager
def _disk_may_fill(path: Path) -> Iterator[None]:
    """What writers of tensors raise when the disk is full, as the system's own error."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        # safetensors tells the number in words; torch says nothing of it
        full = "os error 28" in str(error) or shutil.disk_usage(path.parent).free < 2**20
        if not full:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def sync_folder(folder: Path) -> None:
    """Makes the folder's own entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes temp files that a killed writer left. Only for the folder's one writer."""
    for left in folder.glob(f"*{TEMP_MARK}*"):
        left.unlink()
