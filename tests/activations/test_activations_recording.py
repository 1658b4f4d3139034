import hashlib
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from collections import namedtuple
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_states import MASSIVE_TOKEN, PlantedModel, bytes_of, corpus_of, make_store
from torch import Tensor

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    DiskTooSmall,
    NonFiniteActivations,
    RowFilter,
    Selection,
    StoreForeign,
    StoreMissing,
    StoreUnwritable,
    plan_recording,
    record,
)
from lrt.corpora import SPLITS
from lrt.errors import InvalidValue

COLUMNS = ["source.1", "source.2", "target.3", "norm.source.2", "norm.target.3"]
FACTS = ["token", "position", "document", "group"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_row_is_the_models_state_at_its_token(tmp_path: Path, dtype: torch.dtype) -> None:
    source, target = PlantedModel(6, dtype=dtype), PlantedModel(10, seed=1)
    corpus = corpus_of()
    store = make_store(tmp_path / "s", corpus, source=source, target=target)
    for split in SPLITS:
        rows = {
            name: torch.cat([part[name] for part in store.stream(split, COLUMNS + FACTS, 7)])
            for name in COLUMNS + FACTS
        }
        assert rows["source.1"].dtype == dtype
        assert rows["target.3"].dtype == torch.float32
        sequences = corpus.splits[split]
        assert torch.equal(rows["token"], torch.from_numpy(sequences.tokens.ravel()))
        assert torch.equal(rows["document"], torch.from_numpy(sequences.documents.ravel()))
        assert rows["group"].tolist() == sequences.groups.ravel().tolist()
        assert torch.equal(rows["position"], torch.arange(8).repeat(len(sequences)).int())
        place = rows["token"], rows["position"]
        for layer in (1, 2):
            assert torch.equal(rows[f"source.{layer}"], source.state(*place, layer))
        assert torch.equal(rows["target.3"], target.state(*place, 3))
        norms = source.state(*place, 2).float().norm(dim=-1)
        torch.testing.assert_close(rows["norm.source.2"], norms, rtol=1e-6, atol=0)


def test_manifest_lists_rows_medians_and_shards(tmp_path: Path) -> None:
    corpus = corpus_of()
    store = make_store(tmp_path, corpus, identity={"source": {"sha": "x"}})
    assert {split: store.rows(split) for split in SPLITS} == {
        "train": 320,
        "validation": 48,
        "test": 40,
    }
    assert store.plan.identity == {"source": {"sha": "x"}}
    assert store.plan.corpus == corpus.digest
    first = store.shards("train")[0]
    ids = corpus.splits["train"].tokens[:8].astype("int32")
    assert first.tokens == hashlib.sha256(ids.tobytes()).hexdigest()
    # position 0 of each of its eight sequences, and the massive token wherever else it stands
    assert first.massive["target.3"] == 8 + int((ids[:, 1:] == MASSIVE_TOKEN).sum())
    assert [s.rows for s in store.shards("train")] == [64] * 5
    parts = [*store.stream("train", ["target.3", "position"])]
    norms = torch.cat([p["target.3"][p["position"] > 0] for p in parts]).norm(dim=-1)
    assert store.manifest.median_norms["target.3"] == pytest.approx(float(norms.median()), rel=1e-6)
    store.verify(full=True)
    assert not (tmp_path / "recording.json").exists()


def test_a_complete_store_is_opened_without_running_a_model(store: ActivationStore) -> None:
    idle = PlantedModel(6)
    make_store(store.folder, source=idle, batch_tokens=8)  # the batch size is not what is stored
    assert idle.calls == 0


def test_progress_counts_every_row_once(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_store(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (408, 408)


def test_the_plan_knows_the_bytes_on_disk(tmp_path: Path) -> None:
    corpus = corpus_of(train=1000)
    store = make_store(tmp_path, corpus, rows_per_shard=4096)
    plan = plan_recording(PlantedModel(6), PlantedModel(10), [1, 2], [3], corpus, rows_per_shard=4096)  # type: ignore[arg-type]
    written = sum(map(len, bytes_of(tmp_path).values()))
    assert plan.rows == 8088 == sum(store.rows(split) for split in SPLITS)
    assert plan.bytes_per_row == 2 * 6 * 4 + 10 * 4 + 3 * 4 + 3 * 4 + 8
    assert written <= plan.bytes <= 1.1 * written


Usage = namedtuple("Usage", "total used free")


def test_a_disk_too_small_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, 50_000))
    source = PlantedModel(6)
    with pytest.raises(DiskTooSmall, match="50000 bytes"):
        make_store(tmp_path / "new", source=source)
    assert source.calls == 0


class Killed(BaseException):
    """Not an Exception: no handler between a crash and the disk may tidy up after it."""


def fail_at(monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: BaseException) -> None:
    """Let the `number`-th call of a function of `os` fail."""
    real = getattr(os, call)
    left = [number]

    def counted(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error
        real(*arguments)

    monkeypatch.setattr(os, call, counted)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_at_any_write_and_continued_the_bytes_are_the_same(tmp_path: Path, call: str) -> None:
    corpus = corpus_of(train=20, validation=3, test=2)
    make_store(tmp_path / "whole", corpus)
    wanted = bytes_of(tmp_path / "whole")
    for number in range(100):
        folder = tmp_path / f"{number}"
        source = PlantedModel(6)
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, call, number, Killed())
            try:
                make_store(folder, corpus, source=source)
            except Killed:
                pass
            else:
                break
        if not (folder / "manifest.json").exists():
            with pytest.raises(StoreMissing):
                ActivationStore.open(folder)
        make_store(folder, corpus, source=source)
        # ten passes in all; at most two shards of at most three are run again: one that was being written,
        # and one that the models were filling
        assert source.calls <= 10 + 2 * 3
        assert bytes_of(folder) == wanted
    assert number > 5  # the loop went past the last write


class Slow(PlantedModel):
    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        time.sleep(0.005)
        return super().hidden_states(tokens, layers)


def test_a_real_kill_loses_nothing_but_the_shards_under_way(tmp_path: Path) -> None:
    corpus = corpus_of(train=60)
    make_store(tmp_path / "whole", corpus)
    folder = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(
        target=make_store, args=(folder, corpus), kwargs={"source": Slow(6)}
    )
    process.start()
    while len([*folder.glob("train-*.safetensors")]) < 3 and process.is_alive():
        time.sleep(0.001)
    process.kill()
    process.join()
    finished = len([*folder.glob("train-*.safetensors")])
    assert not (folder / "manifest.json").exists(), "killed too late to test anything"
    source = PlantedModel(6)
    store = make_store(folder, corpus, source=source)
    assert source.calls <= (len(store.manifest.shards) - finished + 1) * 3
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")


def stop_midway(folder: Path) -> None:
    """Leaves a recording that was killed after some of its shards."""
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, "replace", 6, Killed())
        with pytest.raises(Killed):
            make_store(folder)


def test_a_shard_damaged_while_recording_was_stopped_is_recorded_again(
    tmp_path: Path, store: ActivationStore, caplog: pytest.LogCaptureFixture
) -> None:
    stop_midway(tmp_path / "part")
    shard = tmp_path / "part" / "train-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    make_store(tmp_path / "part")
    assert "train-00000.safetensors" in caplog.text
    assert bytes_of(tmp_path / "part") == bytes_of(store.folder)


def test_a_corrupt_journal_only_costs_time(tmp_path: Path, store: ActivationStore) -> None:
    stop_midway(tmp_path / "part")
    (tmp_path / "part" / "recording.json").write_text('{"plan": {')
    make_store(tmp_path / "part")
    assert bytes_of(tmp_path / "part") == bytes_of(store.folder)


def test_an_unfinished_recording_is_not_continued_under_other_settings(tmp_path: Path) -> None:
    stop_midway(tmp_path)
    with pytest.raises(StoreForeign, match="batch_tokens=24"):
        make_store(tmp_path, batch_tokens=8)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"corpus": corpus_of(seed=1)}, "corpus"),
        ({"identity": {"tokenizer": "other"}}, r"identity\.tokenizer"),
        ({"source": PlantedModel(7)}, r"source\.width"),
        ({"source_layers": [1]}, r"source\.layers"),
        ({"target": PlantedModel(10, dtype=torch.bfloat16)}, r"target\.dtype"),
    ],
)
def test_a_foreign_store_is_refused_and_the_difference_named(
    store: ActivationStore, settings: dict[str, object], key: str
) -> None:
    with pytest.raises(StoreForeign, match=key):
        make_store(store.folder, **settings)  # type: ignore[arg-type]


def test_a_full_disk_keeps_what_was_recorded(tmp_path: Path, store: ActivationStore) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, "fsync", 7, OSError(28, "No space left on device"))
        with pytest.raises(DiskTooSmall):
            make_store(tmp_path / "part")
    assert not [*(tmp_path / "part").glob("*.tmp-*")]
    source = PlantedModel(6)
    make_store(tmp_path / "part", source=source)
    assert source.calls < 21  # seven shards of three passes each
    assert bytes_of(tmp_path / "part") == bytes_of(store.folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 KiB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_keeps_what_was_recorded(
    store: ActivationStore, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as if another program took the room after the look beforehand
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 10**9))
    source = PlantedModel(6)
    with pytest.raises(DiskTooSmall):
        make_store(small_disk / "store", source=source)
    kept = [*(small_disk / "store").glob("train-*.safetensors")]
    assert 0 < len(kept) < 5
    assert not [*(small_disk / "store").glob("*.tmp-*")]
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    before = source.calls
    make_store(small_disk / "store", source=source)
    # at most the shard under way was lost
    assert source.calls - before <= 3 * (7 - len(kept)) + 3
    assert bytes_of(small_disk / "store") == bytes_of(store.folder)


def test_non_finite_states_name_model_layer_and_token(tmp_path: Path) -> None:
    class Overflowing(PlantedModel):
        def state(self, tokens, positions, layer):  # type: ignore[no-untyped-def]
            states = super().state(tokens, positions, layer).clone()
            if layer == 2:
                states[(tokens == 17) & (positions == 5), 3] = float("inf")
            return states

    corpus = corpus_of()
    corpus.splits["train"].tokens[:] = 0
    corpus.splits["train"].tokens[11, 5] = 17
    with pytest.raises(
        NonFiniteActivations,
        match=r"source model fragile .* layer 2, for 1 tokens .* train sequence 11, position 5 "
        r"\(token 17, document 5\).*pair\.source\.dtype",
    ):
        make_store(tmp_path, corpus, source=Overflowing(6, name="fragile"))


def test_non_finite_states_are_counted_and_excluded(tmp_path: Path, store: ActivationStore) -> None:
    class Overflowing(PlantedModel):
        def state(self, tokens, positions, layer):  # type: ignore[no-untyped-def]
            states = super().state(tokens, positions, layer).clone()
            if layer == 2:
                states[(tokens == 17) & (positions > 0), 3] = float("nan")
                states[(tokens == 18) & (positions > 0), 1] = float("inf")
            return states

    corpus = corpus_of()
    tokens = torch.from_numpy(corpus.splits["train"].tokens)
    bad = torch.isin(tokens, torch.tensor([17, 18]))
    bad[:, 0] = False
    assert int(bad.sum()) > 3
    source = Overflowing(6, name="fragile")
    damaged = make_store(tmp_path / "bad", corpus, source=source, non_finite="exclude")
    assert sum(s.non_finite.get("source.2", 0) for s in damaged.shards("train")) == int(bad.sum())
    assert all("source.1" not in s.non_finite for s in damaged.manifest.shards)
    keep = RowFilter(max_norm_ratio=None, first_position=False)
    for layer, left in ((2, int(bad.sum())), (1, 0)):
        data = ActivationDataModule(damaged.folder, Selection((layer,), (3,), keep))
        assert data.rows["train"] == tokens.numel() - left
        assert data.rows_excluded["train"].get("non-finite", 0) == left
        rows = torch.cat([b["source"] for b in data.iterate("train")])
        assert rows.isfinite().all()
        whole = ActivationDataModule(store.folder, Selection((layer,), (3,), keep))
        wanted = torch.cat([b["source"] for b in whole.iterate("train")])
        assert torch.equal(rows, wanted[~bad.flatten()] if left else wanted)
    # the median, the unit of strengths, is not affected
    assert torch.tensor(damaged.manifest.median_norms["source.2"]).isfinite()
    # a store that refused would be another
    with pytest.raises(StoreForeign, match="non_finite"):
        make_store(tmp_path / "bad", corpus, source=source)


class Signalling(PlantedModel):
    """Sets an event in its first pass, and waits before the others."""

    started: Any = None

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        self.started.set()
        time.sleep(0.02)
        return super().hidden_states(tokens, layers)


@pytest.mark.parametrize("dies", [False, True])
def test_a_second_recorder_waits_for_the_first(
    tmp_path: Path, store: ActivationStore, caplog: pytest.LogCaptureFixture, dies: bool
) -> None:
    forked = multiprocessing.get_context("fork")
    source, idle = Signalling(6), PlantedModel(6)
    source.started = forked.Event()
    first = forked.Process(target=make_store, args=(tmp_path,), kwargs={"source": source})
    first.start()
    assert source.started.wait(30)
    if dies:
        threading.Timer(0.1, first.kill).start()
    make_store(tmp_path, source=idle)
    first.join()
    assert str(tmp_path) in caplog.text
    # the second opens the store of the first, or goes on where that was killed
    assert (idle.calls > 0) is dies
    assert bytes_of(tmp_path) == bytes_of(store.folder)


def test_an_unwritable_folder_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnwritable, match=r"file/store.*paths\.artifacts"):
        make_store(tmp_path / "file" / "store")
    # root may write anywhere, so permissions are played
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreUnwritable, match=r"paths\.artifacts"):
        make_store(tmp_path / "store")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_layers": [4]}, r"layers\.source=4"),
        ({"target_layers": [-1]}, r"layers\.target=-1"),
        ({"target_layers": []}, r"layers\.target"),
        ({"rows_per_shard": 0}, r"recording\.rows_per_shard=0"),
        ({"batch_tokens": 0}, r"recording\.batch_tokens=0"),
        ({"corpus": corpus_of(train=0)}, r"corpus\.tokens\.train"),
    ],
)
def test_invalid_settings(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make_store(tmp_path, **settings)  # type: ignore[arg-type]


def test_a_real_pair_is_recorded_as_its_blocks_say(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from lrt.models import LanguageModel, ModelSpec

    def tiny(width: int, depth: int) -> LanguageModel:
        torch.manual_seed(width)
        config = LlamaConfig(
            vocab_size=50,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=depth,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        return LanguageModel(ModelSpec("tiny", dtype="float32"), LlamaForCausalLM(config))

    source, target = tiny(8, 2), tiny(12, 3)
    corpus = corpus_of(train=9)
    plan = plan_recording(source, target, [0], [1], corpus, rows_per_shard=32, batch_tokens=16)
    store = record(tmp_path, source, target, plan, corpus)
    tokens = torch.from_numpy(corpus.splits["train"].tokens).long()
    for name, model, layer in (("source.0", source, 0), ("target.1", target, 1)):
        with torch.no_grad():
            own = model.model(tokens, output_hidden_states=True).hidden_states[layer + 1]
        stored = torch.cat([part[name] for part in store.stream("train", [name])])
        torch.testing.assert_close(stored, own.reshape(-1, model.width), rtol=1e-5, atol=1e-6)
