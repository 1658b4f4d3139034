"""Shards are written in a thread while the models run over the next one."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_states import PlantedModel, bytes_of, corpus_of, make_store
from torch import Tensor

from lrt.activations import ActivationStore, StoreCorrupt, shard_writer
from lrt.activations.host_copy import begin_copy

CORPUS = corpus_of(train=32, validation=2, test=2)  # four training shards of three passes each, and two more
WAIT = 10.0


class Running(PlantedModel):
    """Calls a function before each pass, with the pass's number."""

    before: Callable[[int], None] = staticmethod(lambda _: None)

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        self.before(self.calls)
        return super().hidden_states(tokens, layers)


def running(before: Callable[[int], None]) -> Running:
    model = Running(6)
    model.before = before
    return model


def slow_disk(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> list[int]:
    """Calls a function in the writing thread before each shard is saved, with its number."""
    real, threads = shard_writer.save_file, list[int]()

    def save(tensors: dict[str, Tensor], path: Path, **options: Any) -> None:
        threads.append(threading.get_ident())
        before(len(threads) - 1)
        real(tensors, path, **options)

    monkeypatch.setattr(shard_writer, "save_file", save)
    return threads


def test_models_run_over_a_shard_while_the_one_before_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = [threading.Event() for _ in range(16)]

    def written(shard: int) -> None:
        # the last pass of the next training shard: in one thread it would come after this write
        assert shard > 2 or passes[3 * (shard + 1) + 2].wait(WAIT), shard

    threads = slow_disk(monkeypatch, written)
    make_store(tmp_path, CORPUS, source=running(lambda number: passes[number].set()))
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


def test_no_third_shard_is_begun_before_the_first_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def written(shard: int) -> None:
        if shard == 0:
            time.sleep(0.2)  # long enough for all passes, did nothing hold them
            assert max(begun) < 6, begun

    slow_disk(monkeypatch, written)
    make_store(tmp_path, CORPUS, source=running(begun.append))
    assert max(begun) == 13


@pytest.mark.parametrize("states", ["native", "int8"])
def test_a_slow_disk_writes_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: str
) -> None:
    make_store(tmp_path / "fast", CORPUS, states=states)
    slow_disk(monkeypatch, lambda _: time.sleep(0.02))  # memory is not filled again before it is written
    store = make_store(tmp_path / "slow", CORPUS, states=states)
    assert bytes_of(tmp_path / "slow") == bytes_of(tmp_path / "fast")
    for shard in store.manifest.shards:
        content = (tmp_path / "slow" / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_checksum_is_of_the_states_and_not_of_what_the_disk_made_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so no file is read again, and a byte that went wrong on its way is found
    real = shard_writer.save_file

    def garble(tensors: dict[str, Tensor], path: Path) -> None:
        real(tensors, path)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    make_store(tmp_path / "right", CORPUS)
    monkeypatch.setattr(shard_writer, "save_file", garble)
    store = make_store(tmp_path / "wrong", CORPUS)
    assert store.manifest.shards == ActivationStore.open(tmp_path / "right").manifest.shards
    with pytest.raises(StoreCorrupt, match="train-00000"):
        store.verify(full=True)


class Gone(Exception):
    """A failure of the disk."""


def test_a_failed_write_ends_the_recording_and_leaves_whole_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(shard: int) -> None:
        if shard == 2:
            raise Gone

    source = PlantedModel(6)
    with monkeypatch.context() as patch:
        slow_disk(patch, fails)
        with pytest.raises(Gone):
            make_store(tmp_path / "part", CORPUS, source=source)
    assert source.calls == 12  # the shard after it was filled, and no other begun
    kept = sorted(bytes_of(tmp_path / "part"))
    assert kept == ["recording.json", "train-00000.safetensors", "train-00001.safetensors"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shards")]
    make_store(tmp_path / "part", CORPUS, source=source)
    assert source.calls == 12 + 14 - 6
    make_store(tmp_path / "whole", CORPUS)
    assert bytes_of(tmp_path / "part") == bytes_of(tmp_path / "whole")


def test_a_stop_waits_for_the_shard_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()

    def stop(number: int) -> None:
        if number == 4:
            stopped.set()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        slow_disk(patch, lambda _: None if stopped.wait(WAIT) else pytest.fail("never stopped"))
        with pytest.raises(KeyboardInterrupt):
            make_store(tmp_path, CORPUS, source=running(stop))
    source = PlantedModel(6)
    assert isinstance(make_store(tmp_path, CORPUS, source=source), ActivationStore)
    assert source.calls == 14 - 3


def test_a_failure_of_the_models_is_not_hidden_by_one_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = threading.Event()

    def stop(number: int) -> None:
        if number == 4:
            stopped.set()
            raise RuntimeError("out of memory")

    def fails(_: int) -> None:
        stopped.wait(WAIT)
        raise Gone("no disk")

    slow_disk(monkeypatch, fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        make_store(tmp_path, CORPUS, source=running(stop))
    assert "no disk" in caplog.text


class Beside:
    """Copies from a pretend GPU: a copy has its values once it is awaited."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def begin(self, tensor: Tensor) -> Callable[[], Tensor]:
        def finished() -> Tensor:
            self.events.append("awaited")
            return tensor

        return finished

    def ran(self, number: int) -> None:
        self.events.append(f"pass {number}")


def test_a_gpus_states_are_awaited_after_its_next_pass_was_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "cpu", CORPUS)
    beside = Beside()
    monkeypatch.setattr("lrt.activations.paired_forward.begin_copy", beside.begin)
    monkeypatch.setattr("lrt.activations.paired_forward.copies_aside", lambda _: True)
    make_store(tmp_path / "gpu", CORPUS, source=running(beside.ran))
    assert bytes_of(tmp_path / "gpu") == bytes_of(tmp_path / "cpu")
    order = [event for at, event in enumerate(beside.events) if event != beside.events[at - 1]]
    # one batch ahead within a shard, and none of the next shard
    assert order[:8] == ["pass 0", "pass 1", "awaited", "pass 2", "awaited", "pass 3", "pass 4", "awaited"]


def test_a_tensor_on_the_cpu_is_not_copied() -> None:
    states = torch.ones(3)
    assert begin_copy(states)() is states
