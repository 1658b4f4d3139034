"""Rows of some documents, and of all but those: together they are the rows of every document."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_states import PlantedModel, corpus_of, make_store
from torch import Tensor

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    NoRows,
    OnTheFlyRows,
    PartRule,
    RowFilter,
    Selection,
    pairs_with_other_source,
)
from lrt.activations.windows import Batch
from lrt.corpora import SPLITS, Split

CORPUS = corpus_of(document_tokens=5)  # many a document lies within a sequence
TAKEN = (3, 4, 17, 41, 1002, 2003)  # of every split, two of them neighbours
SELECTIONS = {
    "tokens": Selection((1,), (3,), RowFilter()),
    "pooled": Selection((1,), (3,), RowFilter(), 2),
    "last tokens": Selection((1,), (3,), RowFilter(), 4, (), (PartRule("odd", "last_tokens", 3),)),
    "one part": Selection((1,), (3,), RowFilter(), 2, ("even",), (PartRule("even", repeat=2),)),
}
Road = Callable[[Selection, Split], Iterable[Batch]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return make_store(tmp_path_factory.mktemp("documents"), corpus=CORPUS)


def flying(store: ActivationStore, folder: Path, selection: Selection, source: Any = None) -> OnTheFlyRows:
    target: Any = PlantedModel(10, seed=1)
    return OnTheFlyRows(
        source or PlantedModel(6),
        target,
        CORPUS,
        selection,
        store.manifest.median_norms,
        batch_tokens=24,
        non_finite="refuse",
        counts_file=lambda wanted: folder / f"{hash(str(wanted))}.json",
    )


def roads(store: ActivationStore, folder: Path) -> dict[str, Road]:
    other: Any = PlantedModel(7, seed=2)
    return {
        "store": lambda s, split: ActivationDataModule(store.folder, s, chunk_rows=8).iterate(split),
        "pass": lambda s, split: flying(store, folder, s).iterate(split),
        "another source": lambda s, split: pairs_with_other_source(store, split, other, s, 24),
    }


def joined(batches: Iterable[Batch]) -> dict[str, Tensor]:
    parts = [*batches]
    return {name: torch.cat([part[name] for part in parts]) for name in ("source", "target", "document")}


@pytest.mark.parametrize("road", ["store", "pass", "another source"])
@pytest.mark.parametrize("kind", SELECTIONS)
def test_the_rows_of_two_complements_are_those_of_all_documents(
    recorded: ActivationStore, tmp_path: Path, kind: str, road: str
) -> None:
    """To the bit, in their order, for every kind of row and every road to them."""
    every, read = SELECTIONS[kind], roads(recorded, tmp_path)[road]
    taken = 0
    for split in SPLITS:
        rows = joined(read(every, split))
        inside = torch.isin(rows["document"], torch.tensor(TAKEN))
        for excluded, kept in ((False, inside), (True, ~inside)):
            some = [*read(every.of_documents(TAKEN, excluded=excluded), split)]
            found = sum(len(batch["document"]) for batch in some)
            assert found == int(kept.sum())
            for name, values in joined(some).items() if found else ():
                assert torch.equal(values, rows[name][kept]), name
        taken += int(inside.sum())
    assert taken > 0


def test_a_pass_over_some_documents_runs_their_batches_alone(
    recorded: ActivationStore, tmp_path: Path
) -> None:
    every = SELECTIONS["tokens"]
    calls = {}
    for name, selection in (("all", every), ("some", every.of_documents((3, 4), excluded=False))):
        source = PlantedModel(6)
        for _ in flying(recorded, tmp_path, selection, source).iterate("train"):
            pass
        calls[name] = source.calls
    assert calls["some"] <= 2 < calls["all"]


def test_counts_without_documents_follow_from_those_of_all_and_of_these(
    recorded: ActivationStore, tmp_path: Path
) -> None:
    every = SELECTIONS["pooled"]
    rest = every.of_documents(TAKEN, excluded=True)
    for selection in (every, every.of_documents(TAKEN, excluded=False)):
        for split in SPLITS:
            for _ in flying(recorded, tmp_path / "derived", selection).iterate(split):
                pass
    derived, counted = (flying(recorded, tmp_path / name, rest) for name in ("derived", "counted"))
    for split in SPLITS:
        for _ in counted.iterate(split):
            pass
    data = ActivationDataModule(recorded.folder, rest, chunk_rows=8)
    assert derived.rows == counted.rows == data.rows
    assert derived.rows_excluded == counted.rows_excluded == data.rows_excluded
    assert derived.counted("train") == data.rows["train"]


def test_a_split_may_have_none_of_the_documents_but_something_must_be_left(
    recorded: ActivationStore, tmp_path: Path
) -> None:
    every, of_test = SELECTIONS["tokens"], (2003,)
    for read in roads(recorded, tmp_path).values():
        assert [*read(every.of_documents(of_test, excluded=False), "train")] == []
    all_of_them = tuple(range(3000))
    for name in ("store", "pass"):
        with pytest.raises(NoRows):
            _ = [*roads(recorded, tmp_path)[name](every.of_documents(all_of_them, excluded=True), "train")]


def test_a_selection_is_read_from_plain_data() -> None:
    for selection in (*SELECTIONS.values(), SELECTIONS["pooled"].of_documents(TAKEN, excluded=True)):
        assert Selection.from_data(selection.to_data()) == selection
