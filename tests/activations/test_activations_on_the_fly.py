from pathlib import Path
from typing import Any

import pytest
import torch
from planted_states import PlantedModel, corpus_of
from pretend_devices import device_of, pretend_cuda

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    NoRows,
    OnTheFlyRows,
    PartRule,
    RowFilter,
    Selection,
    StoreCorrupt,
)
from lrt.corpora import SPLITS

SELECTION = Selection((2, 1), (3,), RowFilter(), 4)
CORPUS = corpus_of()


def rows_of(store: ActivationStore, counts_file: Path, **settings: Any) -> OnTheFlyRows:
    models: Any = (PlantedModel(6), PlantedModel(10, seed=1))
    return OnTheFlyRows(
        *models,
        CORPUS,
        settings.get("selection", SELECTION),
        store.manifest.median_norms,
        batch_tokens=24,
        non_finite="refuse",
        counts_file=lambda selection: counts_file.with_stem(f"{counts_file.stem}{_documents(selection)}"),
    )


def _documents(selection: Selection) -> str:
    return "" if selection.documents is None else f"-{selection.documents.excluded}"


@pytest.mark.parametrize(
    "selection", [SELECTION, Selection((2,), (3,), RowFilter(), rules=(PartRule("odd", repeat=2),))]
)
def test_rows_and_counts_are_those_of_a_store(
    store: ActivationStore, tmp_path: Path, selection: Selection
) -> None:
    data = ActivationDataModule(store.folder, selection, chunk_rows=8)
    rows = rows_of(store, tmp_path / "new" / "counts.json", selection=selection)
    assert rows.rows == {split: CORPUS.rows(split) for split in SPLITS}  # as long as they are not counted
    for split in SPLITS:
        batches, recorded = list(rows.iterate(split)), list(data.iterate(split))
        for key in ("source", "target", "document"):
            ours, theirs = (torch.cat([batch[key] for batch in each]) for each in (batches, recorded))
            assert torch.equal(ours, theirs), key
            assert ours.dtype == theirs.dtype
    assert rows.rows == data.rows
    assert rows.rows_excluded == data.rows_excluded


def test_counts_survive_a_new_object(store: ActivationStore, tmp_path: Path) -> None:
    file = tmp_path / "counts.json"
    first = rows_of(store, file)
    for _ in first.iterate("train"):
        pass
    second = rows_of(store, file)
    assert second.rows["train"] == first.rows["train"] < CORPUS.rows("train")
    assert second.rows["test"] == CORPUS.rows("test")
    assert second.rows_excluded == first.rows_excluded
    assert second.rows_excluded["train"]["first position"] == 40
    assert second.rows_excluded["test"] == {}


def test_a_pass_that_ends_early_counts_nothing(store: ActivationStore, tmp_path: Path) -> None:
    rows = rows_of(store, tmp_path / "counts.json")
    next(iter(rows.iterate("train")))
    assert rows.rows["train"] == CORPUS.rows("train")


def test_a_damaged_counts_file_is_named(store: ActivationStore, tmp_path: Path) -> None:
    file = tmp_path / "counts.json"
    rows = rows_of(store, file)
    for _ in rows.iterate("train"):
        pass
    content = file.read_text()
    for damaged in (content[:-5], content.replace("40", "41"), ""):
        file.write_text(damaged)
        for read in (lambda: rows.rows, lambda: rows.rows_excluded, lambda: next(rows.iterate("test"))):
            with pytest.raises(StoreCorrupt, match=r"counts\.json.*delete it"):
                read()


def test_excluded_tokens_that_were_never_counted(store: ActivationStore, tmp_path: Path) -> None:
    with pytest.raises(StoreCorrupt, match=r"counts\.json"):
        _ = rows_of(store, tmp_path / "counts.json").rows_excluded


def test_a_filter_that_excludes_every_training_token(store: ActivationStore, tmp_path: Path) -> None:
    everything = Selection((1,), (3,), RowFilter(token_ids=tuple(range(50))))
    rows = rows_of(store, tmp_path / "counts.json", selection=everything)
    assert list(rows.iterate("test")) == []
    with pytest.raises(NoRows, match=r"filter\.max_norm_ratio"):
        list(rows.iterate("train"))


@pytest.mark.parametrize(
    "selection", [SELECTION, Selection((2,), (3,), RowFilter(), rules=(PartRule("odd", repeat=2),))]
)
def test_rows_stay_on_the_device_where_they_are_wanted(
    store: ActivationStore, tmp_path: Path, selection: Selection
) -> None:
    """States are pooled there; labels are on the CPU."""
    here = list(rows_of(store, tmp_path / "cpu.json", selection=selection).iterate("train"))
    with pretend_cuda():
        rows = rows_of(store, tmp_path / "cuda.json", selection=selection)
        there_batches = rows.iterate("train", device=torch.device("cuda:0"))
        for there, batch in zip(there_batches, here, strict=True):
            places = {name: str(device_of(tensor)) for name, tensor in there.items()}
            assert places == {"source": "cuda:0", "target": "cuda:0", "document": "cpu"}
            assert all(torch.equal(tensor.to("cpu"), batch[name]) for name, tensor in there.items())
