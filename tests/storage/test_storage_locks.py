"""Locks: one holder at a time, on a regular file, that ends with its process and names it."""

import errno
import fcntl
import json
import multiprocessing
import os
import platform
import signal
import stat
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from lrt.errors import UserError
from lrt.storage.durable import LinkRefused
from lrt.storage.locks import locked, one_writer

FORK = multiprocessing.get_context("fork")


class Busy(Exception):
    pass


class Unwritable(Exception):
    pass


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    def held(folder: Path = tmp_path / "deep" / "folder") -> AbstractContextManager[None]:
        return one_writer(folder, "knitting in", Busy, Unwritable)

    with held(), pytest.raises(Busy, match=r"knitting in .*deep/folder") as busy, held():
        pass
    assert platform.node() in str(busy.value)
    assert str(os.getpid()) in str(busy.value)
    with pytest.raises(OSError, match="gone"), held():
        raise OSError("gone")
    with held():  # and it was let go
        pass
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(Unwritable, match=rf"the folder {folder} cannot be written .*paths\.artifacts"),
            held(folder),
        ):
            pass


def test_the_lock_is_on_a_regular_file_opened_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems carry no other lock between machines."""
    modes: list[tuple[bool, int]] = []
    flock = fcntl.flock

    def seen(descriptor: int, operation: int) -> None:
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        modes.append((stat.S_ISREG(os.fstat(descriptor).st_mode), access))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", seen)
    with one_writer(tmp_path, "knitting in", Busy, Unwritable):
        pass
    assert modes == [(True, os.O_RDWR)]


def _hold(file: Path, ready: Connection) -> None:
    with locked(file, "holding"):
        ready.send(True)
        signal.pause()


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "it.lock"
    here, there = FORK.Pipe()
    other = FORK.Process(target=_hold, args=(file, there))
    other.start()
    assert here.poll(30)
    holder = json.loads(file.read_text())
    assert (holder["host"], holder["process"]) == (platform.node(), other.pid)
    with pytest.raises(BlockingIOError, match=str(other.pid)), locked(file, "taking it", wait=False):
        pass
    assert json.loads(file.read_text()) == holder  # who asks does not rename the holder
    os.kill(other.pid or 0, signal.SIGKILL)
    other.join(30)
    with locked(file, "taking it", wait=False):
        assert json.loads(file.read_text())["process"] == os.getpid()


def test_a_link_in_a_lock_s_place_is_not_followed(tmp_path: Path) -> None:
    """A folder may come from a stranger, and a lock file is emptied before its holder is written."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".lock").symlink_to(precious)
    with pytest.raises(LinkRefused), one_writer(folder, "knitting in", Busy, Unwritable):
        pass
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=str(tmp_path)), one_writer(tmp_path, "knitting in", Busy, Unwritable):
        pass
