"""A store is read for its checksums once, and again where a file has changed since."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from lrt.activations import ActivationStore, StoreCorrupt, verified, verify_once


@pytest.fixture
def old(copied: Path) -> ActivationStore:
    """A store whose files are older than the clock's resolution."""
    with mock.patch.object(verified, "SETTLED_SECONDS", -1):
        yield ActivationStore.open(copied)


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """The folder of the note."""
    return tmp_path / "verified"


class Readings:
    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.count += 1
        yield


def test_it_is_read_once_by_any_number_of_processes(
    old: ActivationStore, note: Path, store: ActivationStore
) -> None:
    reading = Readings()
    ranks = [threading.Thread(target=verify_once, args=(old, note, reading)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    verify_once(ActivationStore.open(old.folder), note, reading)
    assert reading.count == 1
    assert {path.name for path in old.folder.iterdir()} == {path.name for path in store.folder.iterdir()}


def test_a_file_that_changed_is_read_again_and_damage_is_found(old: ActivationStore, note: Path) -> None:
    verify_once(old, note)
    file = old.folder / "train-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    times = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy that keeps times
    for _ in range(2):  # a failure is not taken down
        with pytest.raises(StoreCorrupt, match=file.name):
            verify_once(old, note)
    content[-3] ^= 4
    file.write_bytes(content)
    reading = Readings()
    verify_once(old, note, reading)
    verify_once(old, note, reading)
    assert reading.count == 1


def test_files_as_young_as_the_clock_is_coarse_are_read_again(copied: Path, note: Path) -> None:
    store, reading = ActivationStore.open(copied), Readings()
    (copied / "manifest.json").touch()
    verify_once(store, note, reading)
    verify_once(store, note, reading)
    assert reading.count == 2


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 5000])
def test_a_note_that_says_nothing_is_replaced(old: ActivationStore, note: Path, text: str) -> None:
    note.mkdir()
    (note / verified.VERIFIED).write_text(text)
    reading = Readings()
    verify_once(old, note, reading)
    verify_once(old, note, reading)
    assert reading.count == 1


def test_a_folder_that_cannot_be_written_is_read_every_time(
    old: ActivationStore, note: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reading = Readings()
    with (
        mock.patch("os.access", return_value=False),
        mock.patch.object(verified, "write_durably", side_effect=PermissionError),
    ):
        verify_once(old, note, reading)
        verify_once(old, note, reading)
    assert reading.count == 2
    assert "cannot be written" in caplog.text
