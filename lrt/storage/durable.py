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
from typing import IO, Any

from lrt.errors import InvalidValue, UserError

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
    temp.unlink(missing_ok=True)  # a link under this name would lead the writing elsewhere
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


def write_folder_durably(folder: Path, content: Callable[[Path], None]) -> None:
    """Puts a folder in the place of none or of an empty one, with what the function writes to the folder it
    is given.

    It gets its name once it is whole and on disk. Otherwise nothing stays of it, unless the process is
    killed; the next that writes `folder` on this machine removes that. Raises OSError where the place is
    taken or cannot be written, or the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temp = folder.with_name(f"{folder.name}{TEMP_MARK}{_NODE}-{os.getpid()}")
    remove(temp)
    for left in folder.parent.glob(f"{glob.escape(folder.name)}{TEMP_MARK}{_NODE}-*"):
        if _is_dead(left.name.rpartition("-")[2]):
            remove(left)
    temp.mkdir()
    try:
        with _disk_may_fill(folder):
            content(temp)
        for path in temp.rglob("*"):
            if path.is_dir():
                sync_folder(path)
                continue
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        sync_folder(temp)
        temp.rename(folder)
        sync_folder(folder.parent)
    finally:
        remove(temp)  # after success it no longer exists


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
    except (OSError, UserError):
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
        remove(left)


def remove(path: Path) -> None:
    """Removes a file, a folder with its contents, or a link but not what it leads to; nothing if missing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class LinkRefused(InvalidValue):
    """A symbolic link in the place of a file that this program writes; the message names it."""


def open_own(path: Path, mode: str) -> IO[Any]:
    """Opens a file of the artifacts folder for writing in place. Raises LinkRefused for a symbolic link,
    through which a file elsewhere would be written, and OSError."""

    def without_links(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    try:
        return open(path, mode, opener=without_links)  # Path.open has no opener
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise LinkRefused(
            f"{path} is a symbolic link, and writing it would change {path.resolve()}; delete the link"
        ) from error
