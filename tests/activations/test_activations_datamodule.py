from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from pretend_devices import device_of, pretend_cuda
from torch import Tensor, nn

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    NoRows,
    RowFilter,
    Selection,
    StoreForeign,
    StoreMissing,
)
from lrt.errors import InvalidValue
from lrt.mapping import FitSpec, MapModule, MapSpec, Moments, ridge_path

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


@pytest.fixture(scope="session")
def folder(store: ActivationStore) -> Path:
    return store.folder


def data_of(folder: Path, **changes: Any) -> ActivationDataModule:
    settings = {"batch_rows": 16, "chunk_rows": 4, "window_rows": 64, **changes}
    selection = settings.pop("selection", None) or pair(filter=settings.pop("filter", RowFilter()))
    return ActivationDataModule(folder, selection, **settings)


def pair(source: int = 2, target: int = 3, filter: RowFilter = RowFilter()) -> Selection:  # noqa: B008
    return Selection((source,), (target,), filter)


class Regression(lightning.LightningModule):
    """A minimal model that trains, and keeps the documents of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(6, 10)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.seen: list[list[int]] = []
        self.validated = 0

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        self.seen.append(batch["document"].tolist())
        return (self.map(batch["source"]) - batch["target"]).square().mean()

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        self.validated += len(batch["source"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def trainer(root: Path, *callbacks: lightning.Callback, **changes: Any) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=root,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=[*callbacks],
        **{"max_epochs": 3, **changes},
    )


def test_rows_add_up(folder: Path) -> None:
    data = data_of(folder)
    for split, recorded in (("train", 320), ("validation", 48), ("test", 40)):
        excluded = data.rows_excluded[split]
        assert excluded["first position"] == recorded // 8
        assert data.rows[split] + sum(excluded.values()) == recorded
        assert sum(len(b["source"]) for b in data.iterate(split, batch_rows=7)) == data.rows[split]
    unfiltered = data_of(folder, filter=RowFilter(max_norm_ratio=None, first_position=False))
    assert unfiltered.rows == {"train": 320, "validation": 48, "test": 40}


def test_every_epoch_of_the_trainer_is_the_streams_epoch(folder: Path, tmp_path: Path) -> None:
    data, module = data_of(folder), Regression()
    fitted = trainer(tmp_path)
    fitted.fit(module, datamodule=data)
    stream = data_of(folder).train_dataloader()
    expected = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        expected += [b["document"].tolist() for b in stream]
    assert module.seen == expected
    # two sanity batches, then all validation rows each epoch
    assert module.validated >= 3 * data.rows["validation"]
    assert (module.validated - 32) == 3 * data.rows["validation"]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Regression:
    """Three epochs of 16 batches."""
    module = Regression()
    trainer(tmp_path_factory.mktemp("whole")).fit(module, datamodule=data_of(folder))
    return module


@pytest.mark.parametrize(("stop_at", "workers"), [(1, 0), (16, 2), (17, 0), (33, 2)])
def test_resumed_fit_is_the_uninterrupted_one(
    folder: Path, tmp_path: Path, whole: Regression, stop_at: int, workers: int
) -> None:
    part = Regression()
    saved = ModelCheckpoint(dirpath=tmp_path, filename="at", every_n_train_steps=stop_at, save_top_k=1)
    stopped = trainer(tmp_path, saved, max_epochs=-1, max_steps=stop_at)
    stopped.fit(part, datamodule=data_of(folder))
    assert part.seen == whole.seen[:stop_at]
    rest = Regression()
    trainer(tmp_path).fit(
        rest,
        datamodule=data_of(folder, workers=workers),
        ckpt_path=saved.best_model_path,
        weights_only=True,
    )
    assert rest.seen == whole.seen[stop_at:]
    assert torch.equal(rest.map.weight, whole.map.weight)
    assert torch.equal(rest.map.bias, whole.map.bias)


@pytest.mark.parametrize("every", [5, 1.0])
def test_resume_after_validation_in_the_middle_of_an_epoch(
    folder: Path, tmp_path: Path, every: float
) -> None:
    whole = Regression()
    saved = ModelCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1)
    trainer(tmp_path, saved, val_check_interval=every, max_epochs=2).fit(whole, datamodule=data_of(folder))
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) >= 2
    for path in checkpoints[:3]:
        step = int(path.stem.split("=")[1])
        rest = Regression()
        trainer(tmp_path, val_check_interval=every, max_epochs=2).fit(
            rest, datamodule=data_of(folder), ckpt_path=path, weights_only=True
        )
        assert rest.seen == whole.seen[step:]
        assert torch.equal(rest.map.weight, whole.map.weight)


def test_a_limited_epoch_does_not_leak_into_the_next(folder: Path, tmp_path: Path) -> None:
    module = Regression()
    trainer(tmp_path, limit_train_batches=3, max_epochs=2).fit(module, datamodule=data_of(folder))
    stream = data_of(folder).train_dataloader()
    expected = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        expected += [b["document"].tolist() for _, b in zip(range(3), stream, strict=False)]
    assert module.seen == expected


def test_hyperparameters_are_plain_and_make_the_same_module(folder: Path, tmp_path: Path) -> None:
    data = data_of(folder, filter=RowFilter(max_norm_ratio=5.0, token_ids=(3, 4)), seed=9)
    saved = ModelCheckpoint(dirpath=tmp_path, filename="last")
    trainer(tmp_path, saved, max_epochs=1).fit(Regression(), datamodule=data)
    path = saved.best_model_path
    torch.load(path, weights_only=True)
    again = ActivationDataModule.load_from_checkpoint(path, weights_only=True)
    assert dict(again.hparams) == dict(data.hparams)
    assert again.rows == data.rows
    same = ActivationDataModule(**data.hparams)
    for a, b in zip(again.train_dataloader(), same.train_dataloader(), strict=True):
        assert torch.equal(a["source"], b["source"])


def test_test_split_is_read_in_order(folder: Path) -> None:
    data = data_of(folder)
    documents = torch.cat([b["document"] for b in data.test_dataloader()])
    assert torch.equal(documents, documents.sort().values)
    assert len(documents) == data.rows["test"]
    assert len(data.val_dataloader()) == len([*data.val_dataloader()])


@pytest.mark.parametrize(("batch_rows", "window_rows"), [(16, 64), (10_000, 10_000)])
def test_shuffled_pairs_keep_the_margins_and_lose_the_pairing(
    folder: Path, batch_rows: int, window_rows: int
) -> None:
    data = data_of(folder, batch_rows=batch_rows, window_rows=window_rows)
    plain = [*data.iterate("train")]
    shuffled = [*data.iterate_shuffled_pairs("train", seed=1)]
    again = [*data.iterate_shuffled_pairs("train", seed=1)]
    other = [*data.iterate_shuffled_pairs("train", seed=2)]
    tables = {}
    for name, batches in (("plain", plain), ("shuffled", shuffled), ("again", again), ("other", other)):
        source = torch.cat([b["source"] for b in batches])
        target = torch.cat([b["target"] for b in batches])
        tables[name] = source, target
    for side in (0, 1):
        assert torch.equal(tables["plain"][side].sort(0).values, tables["shuffled"][side].sort(0).values)

    def pairs(name: str) -> set[tuple[float, ...]]:
        return {tuple(row) for row in torch.cat(tables[name], dim=1).tolist()}

    assert len(pairs("plain") & pairs("shuffled")) < 0.05 * len(pairs("plain"))
    assert pairs("shuffled") == pairs("again")
    assert pairs("shuffled") != pairs("other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_rows": 0}, r"batches\.rows=0"),
        ({"window_rows": 0}, r"batches\.window_rows=0"),
        ({"chunk_rows": -1}, "chunk_rows=-1"),
        ({"workers": -1}, r"batches\.workers=-1"),
    ],
)
def test_invalid_settings(folder: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        data_of(folder, **changes)


def test_stores_without_the_rows(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        data_of(tmp_path).setup()
    with pytest.raises(StoreForeign, match=r"layers\.source=0"):
        ActivationDataModule(folder, pair(0)).setup()
    with pytest.raises(NoRows, match=r"filter\.max_norm_ratio"):
        data_of(folder, filter=RowFilter(token_ids=tuple(range(50)))).setup()


@pytest.mark.slow
@pytest.mark.parametrize("batch_rows", [16, 100])
def test_two_processes_score_a_split_of_few_batches_as_one(
    folder: Path, tmp_path: Path, batch_rows: int
) -> None:
    # of 100 rows: validation and test are one batch each, so the second process has none
    train = Moments(6, 10)
    for batch in data_of(folder).iterate("train"):
        train.update(batch["source"], batch["target"])
    scores = []
    for devices in (1, 2):
        spec = FitSpec(epochs=1, learning_rate=1e-9)
        module = MapModule.from_moments(MapSpec(), spec, train, reference_ridge=ridge_path(train, train))
        data = data_of(folder, batch_rows=batch_rows)
        strategy = "auto" if devices == 1 else "ddp_fork"
        fitted = trainer(
            tmp_path, devices=devices, strategy=strategy, use_distributed_sampler=False, max_epochs=1
        )
        fitted.fit(module, datamodule=data)
        validated = {name: float(value) for name, value in fitted.callback_metrics.items()}
        (tested,) = fitted.test(module, datamodule=data, verbose=False)
        scores.append({**validated, **tested})
    for name in ("val/fvu", "test/fvu", "test/cosine"):
        assert scores[1][name] == pytest.approx(scores[0][name], rel=1e-6)


def test_rows_for_a_gpu_are_those_of_the_cpu(store: ActivationStore) -> None:
    """They cross in the dtype they are stored in, read by a thread; labels stay on the CPU."""
    data = data_of(store.folder)
    with pretend_cuda():
        for there, here in zip(
            data.iterate("train", 16, torch.device("cuda:0")), data.iterate("train", 16), strict=True
        ):
            places = {name: str(device_of(values)) for name, values in there.items()}
            assert {name for name, place in places.items() if place == "cuda:0"} == {"source", "target"}
            assert all(values.dtype == here[name].dtype for name, values in there.items())
            assert all(torch.equal(values.to("cpu"), here[name]) for name, values in there.items())
