"""A gradient fit without a store: batches from passes of both models."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from planted_states import PlantedModel, corpus_of, make_store
from torch import Tensor

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    Batch,
    OnTheFlyRows,
    PassDataModule,
    RowFilter,
    Selection,
    StoreCorrupt,
    passes,
)
from lrt.activations.passes import PassStream, recut, shuffled
from lrt.corpora import SPLITS
from lrt.errors import InvalidValue
from lrt.mapping import FitSpec, MapModule, MapSpec, Moments, ridge_path

SELECTION = Selection((2,), (3,), RowFilter())
CORPUS = corpus_of(train=120)
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


class Watched(PlantedModel):
    """Notes the threads in which it runs."""

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        self.threads = {*getattr(self, "threads", ()), threading.get_ident()}
        return super().hidden_states(tokens, layers)


class Image(PlantedModel):
    """An affine image of a planted source of width 6, and a little noise of its own."""

    weight = torch.randn(10, 6, generator=torch.Generator().manual_seed(5))

    def state(self, tokens: Tensor, positions: Tensor, layer: int) -> Tensor:
        return PlantedModel(6).state(tokens, positions, 2) @ self.weight.T + 0.05 * super().state(
            tokens, positions, layer
        )


@pytest.fixture
def source() -> Watched:
    return Watched(6)


@pytest.fixture
def rows(source: Watched, store: ActivationStore, tmp_path: Path) -> OnTheFlyRows:
    """Rows of `CORPUS`, counted."""
    target: Any = Image(10, seed=1)
    made = OnTheFlyRows(
        source,  # type: ignore[arg-type]
        target,
        CORPUS,
        SELECTION,
        store.manifest.median_norms,
        batch_tokens=40,
        non_finite="refuse",
        counts_file=lambda _: tmp_path / "counts.json",
    )
    for split in SPLITS:
        for _ in made.iterate(split):
            pass
    source.calls = 0
    return made


def numbered(count: int, each: int = 7) -> Iterator[Batch]:
    for part in torch.arange(count).split(each):
        yield {"source": part[:, None].float(), "document": part}


def drawn(count: int, rows: int, capacity: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    batches = list(shuffled(numbered(count), rows, capacity, generator))
    for batch in batches:
        assert torch.equal(batch["source"][:, 0].long(), batch["document"])  # rows stay whole
    return [batch["document"].tolist() for batch in batches]


@pytest.mark.parametrize("count", [0, 1, 5, 64, 100])
@pytest.mark.parametrize(("rows", "capacity"), [(1, 1), (5, 5), (5, 8), (16, 40), (30, 1000)])
def test_a_shuffle_gives_each_row_once(count: int, rows: int, capacity: int) -> None:
    batches = drawn(count, rows, capacity)
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert all(len(batch) == rows for batch in batches[:-1])


def test_rows_come_in_any_order_within_the_buffer_and_none_ahead_of_it() -> None:
    batches = drawn(1000, 10, 200)
    assert batches != drawn(1000, 10, 200, seed=1)
    assert batches == drawn(1000, 10, 200)
    for number, batch in enumerate(batches):
        assert max(batch) < 200 + 10 * number  # the rows that had come
    assert max(max(batch) for batch in batches[:10]) > 200
    # each row of the full buffer is as likely as any other: the mean of 10 from 0 .. 199
    generator = torch.Generator().manual_seed(0)
    firsts = [next(shuffled(numbered(200, 200), 10, 200, generator))["document"] for _ in range(200)]
    assert float(torch.cat(firsts).double().mean()) == pytest.approx(99.5, abs=4)


@pytest.mark.parametrize("rows", [1, 4, 7, 50])
def test_recut_batches_are_the_same_rows(rows: int) -> None:
    batches = [batch["document"] for batch in recut(numbered(33), rows)]
    assert torch.cat(batches).tolist() == list(range(33))
    assert [len(batch) for batch in batches[:-1]] == [rows] * (len(batches) - 1)


def stream_of(rows: OnTheFlyRows, **changes: Any) -> PassStream:
    settings: dict[str, Any] = {"batch_rows": 16, "window_rows": 128, "seed": 0, "device": CPU, **changes}
    return PassStream(rows, settings.pop("split", "train"), **settings)


def table(batches: Iterator[Batch]) -> list[tuple[float, ...]]:
    return [
        (int(d), *s, *t)
        for b in batches
        for d, s, t in zip(b["document"], b["source"].tolist(), b["target"].tolist(), strict=True)
    ]


def test_an_epoch_is_every_row_but_those_of_a_smaller_last_batch(rows: OnTheFlyRows) -> None:
    stream = stream_of(rows)
    epochs = [table(stream.batches(epoch)) for epoch in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert len(epochs[0]) == 16 * len(stream) == rows.rows["train"] // 16 * 16
    whole = set(table(rows.iterate("train")))
    assert set(epochs[0]) <= whole
    assert len(set(epochs[0])) == len(set(epochs[2])) > 0.9 * len(whole)


def test_a_batch_mixes_documents_of_the_whole_buffer(rows: OnTheFlyRows) -> None:
    counts = [len(batch["document"].unique()) for batch in stream_of(rows).batches()]
    in_order = [len(batch["document"].unique()) for batch in recut(rows.iterate("train"), 16)]
    assert sum(counts) / len(counts) > 3 * sum(in_order) / len(in_order)


def test_few_rows_are_one_batch(rows: OnTheFlyRows) -> None:
    stream = stream_of(rows, batch_rows=10_000, window_rows=1)
    (batch,) = stream.batches()
    assert len(stream) == 1
    assert len(batch["source"]) == rows.rows["train"]


def test_held_out_rows_are_those_of_a_store_in_its_order(rows: OnTheFlyRows) -> None:
    for split in ("validation", "test"):
        stream = stream_of(rows, split=split, seed=None)
        batches = list(stream.batches())
        assert len(batches) == len(stream)
        assert table(iter(batches)) == table(rows.iterate(split))  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [2**31, 100])
def test_small_held_out_splits_are_kept_from_their_first_whole_pass_on(
    rows: OnTheFlyRows, source: Watched, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(passes, "HELD_BYTES", limit)
    stream = stream_of(rows, split="validation", seed=None)
    next(stream.batches())  # a check of the first batches keeps nothing
    before = source.calls
    first = table(stream.batches())
    once = source.calls - before
    assert once > 0
    assert table(stream.batches()) == first
    assert source.calls - before == (once if limit > 100 else 2 * once)


def test_rows_that_were_not_counted_are_refused(rows: OnTheFlyRows, tmp_path: Path) -> None:
    (tmp_path / "counts.json").unlink()
    with pytest.raises(StoreCorrupt, match=r"counts\.json"):
        stream_of(rows)


def moments_of(rows: OnTheFlyRows) -> Moments:
    moments = Moments(6, 10)
    for batch in rows.iterate("train"):
        moments.update(batch["source"], batch["target"])
    return moments


def module_of(rows: OnTheFlyRows, **fit: Any) -> MapModule:
    train = moments_of(rows)
    return MapModule.from_moments(MapSpec(), FitSpec(**fit), train, reference_ridge=ridge_path(train, train))


def trainer(root: Path, *callbacks: lightning.Callback, **changes: Any) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=root,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=[*callbacks],
        **{"max_epochs": 2, "use_distributed_sampler": False, **changes},
    )


def passing(rows: OnTheFlyRows) -> PassDataModule:
    return PassDataModule(rows, batch_rows=16, window_rows=256, seed=0)


def test_a_fit_finds_the_planted_map_as_a_fit_from_a_store_does(
    rows: OnTheFlyRows, source: Watched, tmp_path: Path
) -> None:
    store = make_store(tmp_path / "s", CORPUS, target=Image(10, seed=1))
    sizes = {"batch_rows": 64, "window_rows": 256, "seed": 0}
    stored = ActivationDataModule(store.folder, SELECTION, chunk_rows=4, **sizes)  # type: ignore[arg-type]
    fitted = {}
    for name, data in (("store", stored), ("pass", PassDataModule(rows, **sizes))):
        module = module_of(rows, epochs=12, learning_rate=0.05)
        running = trainer(tmp_path, max_epochs=12)
        running.fit(module, datamodule=data)
        (scores,) = running.test(module, datamodule=data, verbose=False)
        fitted[name] = module.affine().weight, scores, running.global_step
    (wanted, theirs, steps), (found, ours, passed) = fitted["store"], fitted["pass"]
    assert passed == steps
    scale = float(Image.weight.abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.003 * scale)
    torch.testing.assert_close(found, Image.weight, rtol=0, atol=0.05 * scale)  # the noise is of the tokens
    for score in ("test/fvu", "test/cosine"):
        assert ours[score] == pytest.approx(theirs[score], rel=0.01)
    assert 0 < ours["test/fvu"] < 0.01
    # in one thread: a steering evaluation between two steps may have hooks on the same models
    assert source.threads == {threading.get_ident()}


@pytest.mark.parametrize("stop_at", [5, 52])
def test_a_resumed_fit_is_the_uninterrupted_one(rows: OnTheFlyRows, tmp_path: Path, stop_at: int) -> None:
    assert len(stream_of(rows)) == 51

    def module() -> MapModule:
        return module_of(rows, schedule="constant", warmup=0.0)  # does not depend on the number of steps

    whole, rest = module(), module()
    trainer(tmp_path).fit(whole, datamodule=passing(rows))
    saved = ModelCheckpoint(dirpath=tmp_path, filename="at", every_n_train_steps=stop_at, save_top_k=1)
    trainer(tmp_path, saved, max_epochs=-1, max_steps=stop_at).fit(module(), datamodule=passing(rows))
    running = trainer(tmp_path)
    running.fit(rest, datamodule=passing(rows), ckpt_path=saved.best_model_path, weights_only=True)
    assert running.global_step == 2 * 51
    assert torch.equal(rest.affine().weight, whole.affine().weight)
    assert torch.equal(rest.affine().bias, whole.affine().bias)


def test_a_place_in_a_stores_order_is_refused(rows: OnTheFlyRows, tmp_path: Path) -> None:
    data = passing(rows)
    data.trainer = trainer(tmp_path)
    loader = data.train_dataloader()
    with pytest.raises(InvalidValue, match=r"recording\.states"):
        loader.load_state_dict({**loader.state_dict(), "order": 2})


def test_several_processes_are_refused(rows: OnTheFlyRows, tmp_path: Path) -> None:
    data = passing(rows)
    data.trainer = trainer(tmp_path, devices=2, strategy="ddp")
    with pytest.raises(InvalidValue, match=r"trainer\.devices"):
        data.train_dataloader()
