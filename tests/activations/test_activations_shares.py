import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_states import PlantedModel, bytes_of, corpus_of, make_store, recording_of
from torch import Tensor

from lrt.activations import (
    ActivationStore,
    RecordingWorker,
    StoreBusy,
    StoreCorrupt,
    StoreForeign,
    StoreMissing,
    record,
    record_share,
    repair,
)
from lrt.errors import InvalidValue
from lrt.storage.locks import LOCK, locked
from lrt.storage.sealed import read_sealed, write_sealed


@pytest.fixture(scope="session")
def whole(store: ActivationStore) -> dict[str, bytes]:
    """Bytes of the store that one process records."""
    return bytes_of(store.folder)


class Killed(BaseException):
    """No handler may tidy up after it."""


class Stopping(PlantedModel):
    """Dies at a pass."""

    def __init__(self, width: int, passes: int) -> None:
        super().__init__(width)
        self.left = passes

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().hidden_states(tokens, layers)


@settings(max_examples=8, deadline=None)
@given(count=st.integers(1, 9), data=st.data())
def test_shares_in_any_number_and_order_make_the_same_store(
    whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, count: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shared")
    order = data.draw(st.permutations(range(count)))
    source = PlantedModel(6)
    for number in order:
        record_share(folder, RecordingWorker(number, count), **recording_of(source=source))
    calls = source.calls
    with pytest.raises(StoreMissing):
        ActivationStore.open(folder)
    record(folder, **recording_of(source=source), missing="refuse")
    assert source.calls == calls
    assert bytes_of(folder) == whole


def test_two_processes_at_once(whole: dict[str, bytes], tmp_path: Path) -> None:
    at_once = [
        multiprocessing.get_context("fork").Process(
            target=record_share, args=(tmp_path, RecordingWorker(number, 2)), kwargs=recording_of()
        )
        for number in range(2)
    ]
    for process in at_once:
        process.start()
    for process in at_once:
        process.join()
        assert process.exitcode == 0
    record(tmp_path, **recording_of(), missing="refuse")
    assert bytes_of(tmp_path) == whole


def test_shares_recorded_elsewhere_are_put_beside_each_other(whole: dict[str, bytes], tmp_path: Path) -> None:
    for number in range(2):
        place = record_share(tmp_path / f"machine {number}", RecordingWorker(number, 2), **recording_of())
        shutil.copytree(place, RecordingWorker(number, 2).folder(tmp_path / "home"))
    record(tmp_path / "home", **recording_of(), missing="refuse")
    assert bytes_of(tmp_path / "home") == whole


def test_a_merge_names_the_shares_that_are_missing(tmp_path: Path) -> None:
    for number in (0, 2):
        record_share(tmp_path, RecordingWorker(number, 4), **recording_of())
    with pytest.raises(StoreMissing, match="1/4 and 3/4"):
        record(tmp_path, **recording_of(), missing="refuse")
    # nothing is lost by asking, and a plain recording fills the gaps alone
    source = PlantedModel(6)
    record(tmp_path, **recording_of(source=source))
    assert source.calls == 3 + 3 + 2


def test_a_share_that_a_merge_was_refused_for_goes_on(whole: dict[str, bytes], tmp_path: Path) -> None:
    record_share(tmp_path, RecordingWorker(1, 2), **recording_of())
    stopped = Stopping(6, passes=4)
    with pytest.raises(Killed):
        record_share(tmp_path, RecordingWorker(0, 2), **recording_of(source=stopped))
    with pytest.raises(StoreMissing, match="0/2"):
        record(tmp_path, **recording_of(), missing="refuse")
    source = PlantedModel(6)
    record_share(tmp_path, RecordingWorker(0, 2), **recording_of(source=source))
    assert source.calls == 3 + 3 + 2  # of eleven passes, one shard's three were kept
    record(tmp_path, **recording_of(), missing="refuse")
    assert bytes_of(tmp_path) == whole


def test_a_share_records_nothing_that_the_store_has(whole: dict[str, bytes], copied: Path) -> None:
    for name in ("train-00000", "train-00002"):
        (copied / f"{name}.safetensors").unlink()
    repair(copied)
    source = PlantedModel(6)
    record_share(copied, RecordingWorker(0, 2), **recording_of(source=source))
    assert source.calls == 6
    record(copied, **recording_of(source=source), missing="refuse")
    assert source.calls == 6
    assert bytes_of(copied) == whole


def test_a_share_ends_once_the_store_is_complete(
    whole: dict[str, bytes], tmp_path: Path, store: ActivationStore
) -> None:
    class Overtaken(PlantedModel):
        """Another process completes the store while this one is at its first shard."""

        def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
            if self.calls == 0:
                shutil.copytree(store.folder, tmp_path / "store", dirs_exist_ok=True)
            return super().hidden_states(tokens, layers)

    source = Overtaken(6)
    record_share(tmp_path / "store", RecordingWorker(0, 2), **recording_of(source=source))
    assert source.calls == 3
    record(tmp_path / "store", **recording_of())
    assert bytes_of(tmp_path / "store") == whole


def test_a_merge_needs_no_version_of_its_own(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        record_share(tmp_path, RecordingWorker(number, 2), **recording_of())
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99")
    record(tmp_path, **recording_of(), missing="refuse")
    assert bytes_of(tmp_path) == whole
    # what is damaged cannot be made to the same bytes by other versions
    (tmp_path / "train-00000.safetensors").unlink()
    with pytest.raises(StoreForeign, match=r"train-00000\.safetensors"):
        repair(tmp_path)
    assert (tmp_path / "manifest.json").exists()


def test_a_share_that_is_done_or_stopped_goes_on(whole: dict[str, bytes], tmp_path: Path) -> None:
    source = PlantedModel(6)
    place = record_share(tmp_path, RecordingWorker(0, 2), **recording_of(source=source))
    calls = source.calls
    record_share(tmp_path, RecordingWorker(0, 2), **recording_of(source=source))
    assert source.calls == calls
    damaged = sorted(place.glob("train-*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x77")
    record_share(tmp_path, RecordingWorker(0, 2), **recording_of(source=source))
    assert source.calls == calls + 3
    record(tmp_path, **recording_of())
    assert bytes_of(tmp_path) == whole
    # one that comes late finds the store complete
    record_share(tmp_path, RecordingWorker(1, 2), **recording_of(source=source))
    assert source.calls == calls + 3
    assert bytes_of(tmp_path) == whole


def test_a_merge_killed_at_any_move_is_done_again(whole: dict[str, bytes], tmp_path: Path) -> None:
    real = os.replace
    for survives in range(12):
        folder, left = tmp_path / str(survives), [survives]
        for number in range(3):
            record_share(folder, RecordingWorker(number, 3), **recording_of())

        def counted(*paths: object, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            real(*paths)  # type: ignore[call-overload]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", counted)
            try:
                record(folder, **recording_of(), missing="refuse")
            except Killed:
                pass
            else:
                break
        source = PlantedModel(6)
        record(folder, **recording_of(source=source), missing="refuse")
        assert source.calls == 0
        assert bytes_of(folder) == whole
    assert 7 < survives < 11  # each of the seven shards, the journal and the manifest


class Waiting(PlantedModel):
    """Signals its first pass, and waits a moment in each."""

    started: Any = None

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        self.started.set()
        time.sleep(0.02)
        return super().hidden_states(tokens, layers)


@pytest.mark.parametrize("second", ["share", "store"])
def test_a_share_that_is_being_recorded_is_waited_for(
    whole: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture, second: str
) -> None:
    forked = multiprocessing.get_context("fork")
    slow, source = Waiting(6), PlantedModel(6)
    slow.started = forked.Event()
    worker = RecordingWorker(0, 2)
    first = forked.Process(target=record_share, args=(tmp_path, worker), kwargs=recording_of(source=slow))
    first.start()
    assert slow.started.wait(30)
    if second == "share":
        record_share(tmp_path, worker, **recording_of(source=source))
        assert source.calls == 0
    record(tmp_path, **recording_of(source=source))
    first.join()
    assert str(worker.folder(tmp_path)) in caplog.text
    assert source.calls == 3 + 3 + 2  # the other worker's shards
    assert bytes_of(tmp_path) == whole


def test_a_share_whose_store_is_completed_during_the_wait(
    whole: dict[str, bytes], tmp_path: Path, store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, source = RecordingWorker(0, 2), PlantedModel(6)
    place = record_share(tmp_path, worker, **recording_of())
    other = ExitStack()
    other.enter_context(locked(place / LOCK, "recording"))

    def complete(*_: object) -> None:
        """Another process completes the store, and removes the workers' folders."""
        shutil.copytree(store.folder, tmp_path, dirs_exist_ok=True)
        shutil.rmtree(place.parent)
        other.close()

    monkeypatch.setattr(logging.getLogger("lrt.storage.locks"), "warning", complete)
    record_share(tmp_path, worker, **recording_of(source=source))
    record(tmp_path, **recording_of(source=source))
    assert source.calls == 0
    assert bytes_of(tmp_path) == whole


def test_a_worker_that_records_for_a_complete_store_is_left_alone(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = RecordingWorker(0, 2).folder(copied)
    place.mkdir(parents=True)
    with locked(place / LOCK, "recording"):
        make_store(copied)
    assert str(place) in caplog.text
    assert place.is_dir()
    make_store(copied)
    assert not place.parent.exists()


def test_a_store_that_is_being_recorded_is_not_repaired(copied: Path) -> None:
    with locked(copied / LOCK, "recording"), pytest.raises(StoreBusy):
        repair(copied)


def test_a_share_of_another_recording_is_refused(tmp_path: Path) -> None:
    record_share(tmp_path, RecordingWorker(0, 2), **recording_of(batch_tokens=8))
    with pytest.raises(StoreForeign, match=r"0-of-2.*batch_tokens"):
        record(tmp_path, **recording_of())


def test_a_plan_of_another_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="corpus"):
        record(tmp_path, **{**recording_of(), "corpus": corpus_of(seed=3)})


def test_a_journal_cannot_name_a_file_outside(whole: dict[str, bytes], tmp_path: Path) -> None:
    folder, name = tmp_path / "store", "test-00000.safetensors"
    place = record_share(folder, RecordingWorker(0, 1), **recording_of())
    journal = read_sealed(place / "recording.json")
    (entry,) = (shard for shard in journal["shards"] if shard["file"] == name)
    entry["file"] = f"../../../{name}"
    write_sealed(place / "recording.json", journal)
    (tmp_path / name).write_bytes((place / name).read_bytes())
    record(folder, **recording_of())
    assert (tmp_path / name).exists()
    assert bytes_of(folder) == whole


def test_a_merge_names_a_share_whose_journal_is_damaged(tmp_path: Path) -> None:
    for number in range(2):
        place = record_share(tmp_path, RecordingWorker(number, 2), **recording_of())
    (place / "recording.json").write_text("{")
    with pytest.raises(StoreMissing, match="1/2"):
        record(tmp_path, **recording_of(), missing="refuse")
    (tmp_path / "shares" / "0-of-2" / "recording.json").unlink()
    with pytest.raises(StoreMissing, match="0/2 and 1/2"):
        record(tmp_path, **recording_of(), missing="refuse")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_repaired_store_records_what_was_damaged_alone(
    whole: dict[str, bytes], copied: Path, damage: str
) -> None:
    assert repair(copied) == []
    assert bytes_of(copied) == whole
    bad = copied / "train-00003.safetensors"
    content = bad.read_bytes()
    bad.unlink()
    if damage != "gone":
        bad.write_bytes(content[:-1] + (b"\x77" if damage == "flipped" else b""))
    assert repair(copied) == ["train-00003.safetensors"]
    with pytest.raises(StoreMissing):
        ActivationStore.open(copied)
    source = PlantedModel(6)
    make_store(copied, source=source)
    assert source.calls == 3
    assert bytes_of(copied) == whole


def test_what_cannot_be_repaired(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(StoreMissing):
        repair(tmp_path)
    manifest = copied / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows": 64', '"rows": 65', 1))
    with pytest.raises(StoreCorrupt, match=r"manifest\.json"):
        repair(copied)


@pytest.mark.parametrize("text", ["", "1", "1/", "4/4", "-1/2", "0/0", "a/b", "1/2/3"])
def test_invalid_shares(text: str) -> None:
    with pytest.raises(InvalidValue, match="share"):
        RecordingWorker.parse(text)


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4"}, RecordingWorker(1, 4)),
        (
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"},
            RecordingWorker(2, 3),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, RecordingWorker(0, 2)),
        # two tasks of srun in each element of an array over 0, 4 and 8
        (
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_STEP": "4",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "2",
            },
            RecordingWorker(3, 6),
        ),
    ],
)
def test_the_share_of_a_launcher(environment: dict[str, str], share: RecordingWorker) -> None:
    assert RecordingWorker.of_environment(environment) == share


def test_an_environment_without_a_launcher() -> None:
    with pytest.raises(InvalidValue, match="share=auto"):
        RecordingWorker.of_environment({"RANK": "1"})


def test_shards_of_unlike_hardware_are_named_when_they_are_merged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Versions and dtype agree, but the last bits of states do not."""
    for number, hardware in enumerate(("one GPU", "another GPU")):
        source = PlantedModel(6, hardware=hardware)
        record_share(tmp_path, RecordingWorker(number, 2), **recording_of(source=source))
    merged = record(tmp_path, **recording_of(), missing="refuse")
    assert "one GPU" in caplog.text
    assert "another GPU" in caplog.text
    kinds = {shard.hardware for shard in ActivationStore.open(merged.folder).manifest.shards}
    assert len(kinds) == 2
    caplog.clear()
    record(tmp_path / "alike", **recording_of())
    # the name of this test's folder is in the log too
    said = [record.getMessage().replace(str(tmp_path), "") for record in caplog.records]
    assert not [message for message in said if "hardware" in message]
