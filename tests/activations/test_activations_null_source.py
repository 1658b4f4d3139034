from typing import Any

import pytest
import torch
from planted_states import MASSIVE_TOKEN, PlantedModel, corpus_of
from torch import Tensor

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    RowFilter,
    Selection,
    StoreForeign,
    pairs_with_other_source,
)
from lrt.corpora import Split

FILTERS = [RowFilter(), RowFilter(max_norm_ratio=None, first_position=False), RowFilter(token_ids=(1, 2, 3))]


def one(filter_: RowFilter, source: int = 1, target: int = 3, pool: int = 1) -> Selection:
    return Selection((source,), (target,), filter_, pool)


def gather(batches: object) -> dict[str, Tensor]:
    parts = list(batches)  # type: ignore[call-overload]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


@pytest.mark.parametrize("filter_", FILTERS, ids=["default", "none", "tokens"])
@pytest.mark.parametrize(
    ("split", "pool", "batch_tokens"), [("train", 1, 24), ("train", 4, 8192), ("test", 4, 1)]
)
def test_with_the_same_source_they_are_the_recorded_rows(
    store: ActivationStore, filter_: RowFilter, split: Split, pool: int, batch_tokens: int
) -> None:
    source: Any = PlantedModel(6)
    rows = gather(pairs_with_other_source(store, split, source, one(filter_, pool=pool), batch_tokens))
    recorded = gather(
        ActivationDataModule(store.folder, one(filter_, pool=pool), chunk_rows=8).iterate(split)
    )
    assert 0 < len(rows["source"]) < store.rows(split) or filter_.max_norm_ratio is None
    for key in ("source", "target", "document"):
        torch.testing.assert_close(rows[key], recorded[key], msg=key)
    assert rows["source"].dtype == rows["target"].dtype == torch.float32


def test_a_batch_without_rows_is_skipped(store: ActivationStore) -> None:
    nothing = one(RowFilter(token_ids=tuple(range(50))))
    assert list(pairs_with_other_source(store, "test", PlantedModel(6), nothing)) == []  # type: ignore[arg-type]


def test_another_source_beside_the_same_target_rows(store: ActivationStore) -> None:
    corpus, other = corpus_of(), PlantedModel(4, seed=8, dtype=torch.bfloat16)
    keep_all = RowFilter(max_norm_ratio=None, first_position=False)
    rows = gather(pairs_with_other_source(store, "train", other, one(keep_all, 0)))  # type: ignore[arg-type]
    tokens = torch.from_numpy(corpus.splits["train"].tokens.ravel()).long()
    positions = torch.arange(8).repeat(len(tokens) // 8)
    torch.testing.assert_close(rows["source"], other.state(tokens, positions, 0).float())
    target = PlantedModel(10, seed=1).state(tokens, positions, 3)
    torch.testing.assert_close(rows["target"], target)


def test_tokens_are_excluded_by_the_targets_norms_alone(store: ActivationStore) -> None:
    class Flat(PlantedModel):
        def state(self, tokens: Tensor, positions: Tensor, layer: int) -> Tensor:  # noqa: ARG002
            # massive where the target is not, and nowhere else
            plain = torch.ones(*tokens.shape, self.width) + layer
            return torch.where((tokens == 5)[..., None], 1e4 * plain, plain)

    corpus = corpus_of()
    rows = gather(pairs_with_other_source(store, "train", Flat(4), one(RowFilter(), 0)))  # type: ignore[arg-type]
    tokens = torch.from_numpy(corpus.splits["train"].tokens.ravel())
    wanted = (torch.arange(8).repeat(len(tokens) // 8) != 0) & (tokens != MASSIVE_TOKEN)
    assert len(rows["source"]) == int(wanted.sum())
    assert bool((rows["source"] > 1e3).any()) == bool((tokens[wanted] == 5).any())
    assert bool((tokens[wanted] == 5).any())


def test_a_layer_that_was_not_recorded(store: ActivationStore) -> None:
    with pytest.raises(StoreForeign, match=r"layers\.target=0"):
        list(pairs_with_other_source(store, "train", PlantedModel(4), one(RowFilter(), 0, 0)))  # type: ignore[arg-type]
