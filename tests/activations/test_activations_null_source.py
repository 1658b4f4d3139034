from pathlib import Path

import pytest
import torch
from planted_states import MASSIVE_TOKEN, PlantedModel, corpus_of, make_store
from torch import Tensor

from lrt.activations import (
    ActivationDataModule,
    RowFilter,
    Selection,
    StoreForeign,
    pairs_with_other_source,
)
from lrt.corpora import SPLITS, Split

FILTERS = [RowFilter(), RowFilter(max_norm_ratio=None, first_position=False), RowFilter(token_ids=(1, 2, 3))]


def one(filter_: RowFilter, source: int = 1, target: int = 3, span: int = 1) -> Selection:
    return Selection((source,), (target,), filter_, span)


def gather(batches: object) -> dict[str, Tensor]:
    rows = list(batches)  # type: ignore[call-overload]
    return {key: torch.cat([batch[key] for batch in rows]) for key in rows[0]}


@pytest.mark.parametrize("filter_", FILTERS, ids=["default", "none", "tokens"])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("pool", [1, 4])
@pytest.mark.parametrize("batch_tokens", [1, 24, 8192])
def test_with_the_same_source_it_is_the_recorded_rows(
    tmp_path: Path, filter_: RowFilter, split: Split, batch_tokens: int, span: int
) -> None:
    source = PlantedModel(6)
    store = make_store(tmp_path, corpus_of(), source=source)
    found = gather(pairs_with_other_source(store, split, source, one(filter_, pool=span), batch_tokens))  # type: ignore[arg-type]
    recorded = gather(
        ActivationDataModule(store.folder, one(filter_, pool=span), chunk_rows=8).iterate(split)
    )
    assert 0 < len(found["source"]) < store.rows(split) or filter_.max_norm_ratio is None
    for key in ("source", "target", "document"):
        torch.testing.assert_close(found[key], recorded[key], msg=key)
    assert found["source"].dtype == found["target"].dtype == torch.float32


def test_another_source_beside_the_same_target_rows(tmp_path: Path) -> None:
    corpus, other = corpus_of(), PlantedModel(4, seed=8, dtype=torch.bfloat16)
    store = make_store(tmp_path, corpus)
    keep_all = RowFilter(max_norm_ratio=None, first_position=False)
    found = gather(pairs_with_other_source(store, "train", other, one(keep_all, 0)))  # type: ignore[arg-type]
    tokens = torch.from_numpy(corpus.splits["train"].tokens.ravel()).long()
    positions = torch.arange(8).repeat(len(tokens) // 8)
    torch.testing.assert_close(found["source"], other.state(tokens, positions, 0).float())
    target = PlantedModel(10, seed=1).state(tokens, positions, 3)
    torch.testing.assert_close(found["target"], target)


def test_rows_leave_by_the_targets_norms_alone(tmp_path: Path) -> None:
    class Flat(PlantedModel):
        def state(self, tokens: Tensor, positions: Tensor, layer: int) -> Tensor:  # noqa: ARG002
            # massive where the target is not, and nowhere else
            plain = torch.ones(*tokens.shape, self.width) + layer
            return torch.where((tokens == 5)[..., None], 1e4 * plain, plain)

    corpus = corpus_of()
    store = make_store(tmp_path, corpus)
    kept = gather(pairs_with_other_source(store, "train", Flat(4), one(RowFilter(), 0)))  # type: ignore[arg-type]
    tokens = torch.from_numpy(corpus.splits["train"].tokens.ravel())
    wanted = (torch.arange(8).repeat(len(tokens) // 8) != 0) & (tokens != MASSIVE_TOKEN)
    assert len(kept["source"]) == int(wanted.sum())
    assert bool((kept["source"] > 1e3).any()) == bool((tokens[wanted] == 5).any())
    assert bool((tokens[wanted] == 5).any())


def test_a_layer_that_was_not_recorded(tmp_path: Path) -> None:
    store = make_store(tmp_path, corpus_of())
    with pytest.raises(StoreForeign, match=r"layers\.target=0"):
        list(pairs_with_other_source(store, "train", PlantedModel(4), one(RowFilter(), 0, 0)))  # type: ignore[arg-type]
