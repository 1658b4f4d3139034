import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from lrt.storage.durable import sweep, write_durably, write_folder_durably


def test_order_of_calls_is_fsync_replace_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def seen_replace(a: Path, b: Path) -> None:
        calls.append("replace")
        assert a.parent == b.parent
        replace(a, b)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write_durably(tmp_path / "x", lambda temp: temp.write_bytes(b"1") and None)
    assert calls == ["file", "replace", "folder"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_failing_writer_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail(temp: Path) -> None:
        temp.write_bytes(b"ha")
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_durably(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_bytes() == b"old"


def test_sweep_removes_temp_files_only(tmp_path: Path) -> None:
    (tmp_path / "x.tmp-12").touch()
    (tmp_path / "x").touch()
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_writer_of_the_same_file_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a[1].json"
    temps: list[Path] = []
    write_durably(path, lambda temp: (temps.append(temp), temp.write_text("x"))[0])
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    ours = temps[0].name
    left = [tmp_path / f"{ours.rpartition('-')[0]}-{process}" for process in (dead.pid, os.getppid(), "x")]
    other = tmp_path / f"b{ours.removeprefix('a[1]').rpartition('-')[0]}-{dead.pid}"
    for file in (*left, other):
        file.touch()
    write_durably(path, b"new")
    assert not left[0].exists()
    assert all(file.exists() for file in (*left[1:], other))  # a live one's, no process's, another file's


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"

    def write(temp: Path) -> None:
        (temp / "inner").mkdir()
        (temp / "inner" / "x").write_text("x")

    def fail(temp: Path) -> None:
        write(temp)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_folder_durably(folder, fail)
    assert not [*tmp_path.iterdir()]
    temps: list[Path] = []
    write_folder_durably(folder, lambda temp: (temps.append(temp), write(temp))[0])
    assert (folder / "inner" / "x").read_text() == "x"
    # one that holds something is never replaced
    with pytest.raises(OSError, match="not empty"):
        write_folder_durably(folder, lambda _: None)
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]
    # what a killed writer of the same folder left is removed
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    (tmp_path / f"{temps[0].name.rpartition('-')[0]}-{dead.pid}").mkdir()
    (folder / "inner" / "x").unlink()
    (folder / "inner").rmdir()
    write_folder_durably(folder, write)
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]
