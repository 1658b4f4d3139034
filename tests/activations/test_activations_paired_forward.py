import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_states import MASSIVE_TOKEN, PlantedModel, corpus_of, make_store
from torch import Tensor

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    NonFiniteActivations,
    PairedRows,
    PartRule,
    PartRules,
    RowFilter,
    Selection,
    median_norms,
    paired_rows,
)
from lrt.corpora import SPLITS, Blocks, Split

CORPUS = corpus_of()
LAYERS: tuple[list[int], list[int]] = ([1, 2], [3])
FILTERS = {
    "default": RowFilter(),
    "none": RowFilter(max_norm_ratio=None, first_position=False),
    "tokens": RowFilter(token_ids=(1, 2, 3)),
}


def models(**settings: Any) -> tuple[Any, Any]:
    """Those that `make_store` records."""
    return PlantedModel(6, **settings), PlantedModel(10, seed=1, **settings)


def rows(blocks: Blocks, medians: dict[str, float], pair: Any = None, **settings: Any) -> list[PairedRows]:
    settings = {"filter": RowFilter(), "pool": 1, "batch_tokens": 24, **settings}
    return list(paired_rows(*(pair or models()), *LAYERS, blocks, medians=medians, **settings))


def joined(found: list[PairedRows]) -> dict[str, Tensor]:
    """As a store's stream has them: a side's layers next to each other."""
    return {
        "source": torch.cat([torch.cat(list(each.source.values()), dim=1) for each in found]),
        "target": torch.cat([torch.cat(list(each.target.values()), dim=1) for each in found]),
        "document": torch.cat([each.document for each in found]),
    }


def recorded(
    store: ActivationStore, split: Split, filter_: RowFilter, span: int, parts: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    selection = Selection(*map(tuple, LAYERS), filter_, span, parts)  # type: ignore[arg-type]
    batches = list(ActivationDataModule(store.folder, selection, chunk_rows=8).iterate(split))
    return {key: torch.cat([batch[key] for batch in batches]) for key in ("source", "target", "document")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return make_store(tmp_path_factory.mktemp("store"), CORPUS)


@pytest.mark.parametrize("filter_", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("pool", [1, 4])
@pytest.mark.parametrize("batch_tokens", [1, 24, 8192])
@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_those_of_a_store(
    store: ActivationStore, filter_: RowFilter, span: int, batch_tokens: int, split: Split
) -> None:
    medians = store.manifest.median_norms
    found = rows(CORPUS.splits[split], medians, filter=filter_, pool=span, batch_tokens=batch_tokens)
    wanted = recorded(store, split, filter_, span)
    if span == 1:
        assert (0 < len(wanted["source"]) < store.rows(split)) == (filter_.max_norm_ratio is not None)
    for key, value in joined(found).items():
        assert torch.equal(value, wanted[key]), key
        assert value.dtype == (torch.int64 if key == "document" else torch.float32)
    assert [each.blocks for each in found][-1] == len(CORPUS.splits[split])


def test_rows_of_one_part_of_the_mixture(store: ActivationStore) -> None:
    medians = store.manifest.median_norms
    found = rows(CORPUS.splits["train"], medians, pool=4, rules=PartRules(torch.tensor([1])))
    wanted = recorded(store, "train", RowFilter(), 4, ("odd",))
    for key, value in joined(found).items():
        assert torch.equal(value, wanted[key]), key
    assert set((joined(found)["document"] % 2).tolist()) == {1}


def test_ends_and_repeated_rows_are_those_of_a_store(tmp_path: Path) -> None:
    corpus = corpus_of(document_tokens=3)
    store = make_store(tmp_path, corpus)
    chosen = Selection(
        *map(tuple, LAYERS),
        RowFilter(),
        4,
        rules=(PartRule("odd", "last_tokens"), PartRule("even", repeat=3)),
    )  # type: ignore[arg-type]
    # whole documents in a batch and a chunk, or an end could be a batch's last token
    rules = PartRules.of(chosen, corpus.groups)
    found = joined(
        rows(corpus.splits["train"], store.manifest.median_norms, pool=4, batch_tokens=64, rules=rules)
    )
    batches = list(ActivationDataModule(store.folder, chosen, chunk_rows=16).iterate("train"))
    for key, value in found.items():
        assert torch.equal(value, torch.cat([batch[key] for batch in batches])), key
    assert sum(int(document) % 2 for document in found["document"].unique()) > 10


def test_rows_of_a_lower_precision_are_those_of_a_store(tmp_path: Path) -> None:
    pair = models(dtype=torch.bfloat16)
    store = make_store(tmp_path, CORPUS, source=pair[0], target=pair[1])
    for span in (1, 4):
        found = joined(rows(CORPUS.splits["test"], store.manifest.median_norms, pair, pool=span))
        for key, value in recorded(store, "test", RowFilter(), span).items():
            assert torch.equal(found[key], value), key


def test_a_token_that_is_massive_at_one_layer_leaves_at_all() -> None:
    class Once(PlantedModel):
        def state(self, tokens: Tensor, positions: Tensor, layer: int) -> Tensor:
            plain = super().state(tokens, positions, layer)
            return torch.where((tokens == 5)[..., None] & (layer == 2), 1e3 * plain, plain)

    blocks = CORPUS.splits["train"]
    pair: Any = (Once(6), PlantedModel(10, seed=1))
    medians = median_norms(*pair, *LAYERS, blocks, at_most_tokens=10**6, batch_tokens=64)
    kept = joined(rows(blocks, medians, pair))
    tokens = torch.from_numpy(blocks.tokens)
    stays = (tokens != MASSIVE_TOKEN) & (torch.arange(8) > 0)
    assert len(kept["source"]) == int((stays & (tokens != 5)).sum()) < int(stays.sum())


def test_a_pass_that_goes_on_has_the_same_batches() -> None:
    blocks = CORPUS.splits["train"]
    medians = median_norms(*models(), *LAYERS, blocks, at_most_tokens=10**6, batch_tokens=64)
    whole = rows(blocks, medians, pool=4)
    rest = rows(blocks, medians, pool=4, start=whole[4].blocks)
    assert [each.blocks for each in rest] == [each.blocks for each in whole[5:]]
    for one, other in zip(rest, whole[5:], strict=True):
        for key, value in joined([one]).items():
            assert torch.equal(value, joined([other])[key]), key
    assert rows(blocks, medians, start=len(blocks)) == []


def test_one_forward_pass_of_each_model_a_batch() -> None:
    pair = models()
    found = rows(CORPUS.splits["train"], {}, pair, filter=FILTERS["none"])
    assert [model.calls for model in pair] == [len(found), len(found)] == [14, 14]


def test_a_batch_of_which_nothing_is_kept_counts_its_blocks() -> None:
    everything = RowFilter(max_norm_ratio=None, token_ids=tuple(range(50)))
    found = rows(CORPUS.splits["test"], {}, filter=everything)
    assert [each.blocks for each in found] == [3, 5]
    assert joined(found)["source"].shape == (0, 12)
    assert joined(found)["document"].shape == (0,)


def test_medians_are_the_stores_where_all_is_seen(store: ActivationStore) -> None:
    blocks = CORPUS.splits["train"]
    seen = median_norms(*models(), *LAYERS, blocks, at_most_tokens=10**6, batch_tokens=24)
    assert seen == dict(store.manifest.median_norms)


def test_medians_of_a_first_part() -> None:
    blocks = CORPUS.splits["train"]
    pair = models()
    some = median_norms(*pair, *LAYERS, blocks, at_most_tokens=47, batch_tokens=16)
    assert pair[0].calls == 3  # five blocks of eight, two at a time
    tokens = torch.from_numpy(blocks.tokens[:5]).long()
    states = pair[0].state(tokens, torch.arange(8).expand(5, 8), 2)[:, 1:]
    assert some["source.2"] == float(states.norm(dim=-1).flatten().median())
    assert set(some) == {"source.1", "source.2", "target.3"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"start": 41}, r"start=41 is outside the split, which has 40 blocks"),
        ({"start": -1}, r"start=-1"),
        ({"batch_tokens": 0}, r"recording\.batch_tokens is 0; it must be at least 1"),
        ({"pool": 0}, r"pool=0"),
        (
            {},
            r"filter\.max_norm_ratio=10\.0 needs the median norm .* source\.1, source\.2, target\.3 is missing",
        ),
    ],
)
def test_settings_that_cannot_be_run(settings: dict[str, Any], said: str) -> None:
    pair = models()
    settings = {"filter": RowFilter(), "pool": 1, "batch_tokens": 24, **settings}
    with pytest.raises(ValueError, match=said):
        paired_rows(*pair, *LAYERS, CORPUS.splits["train"], medians={}, **settings)
    assert pair[0].calls == 0


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (([4], [3]), r"atlas\.source=4 is out of range: planted has blocks 0 to 3"),
        (([1], [-1]), r"atlas\.target=-1 is out of range"),
        (([1, 1], [3]), r"atlas\.source=\[1, 1\]"),
        (([1], []), r"atlas\.target=\[\]"),
    ],
)
def test_layers_that_are_not_there(layers: tuple[list[int], list[int]], said: str) -> None:
    blocks = CORPUS.splits["train"]
    with pytest.raises(ValueError, match=said):
        paired_rows(*models(), *layers, blocks, filter=RowFilter(), pool=1, medians={}, batch_tokens=8)
    with pytest.raises(ValueError, match=said):
        median_norms(*models(), *layers, blocks, at_most_tokens=8, batch_tokens=8)


def test_medians_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"no block, so no norm .* corpus\.tokens\.train"):
        median_norms(*models(), *LAYERS, corpus_of(train=0).splits["train"], at_most_tokens=8, batch_tokens=8)
    with pytest.raises(ValueError, match="at_most_tokens=0"):
        median_norms(*models(), *LAYERS, CORPUS.splits["train"], at_most_tokens=0, batch_tokens=8)


class Broken(PlantedModel):
    """At block 3 the states of one token are infinite, at block 2 those of position 5 undefined."""

    bad = 7

    def state(self, tokens: Tensor, positions: Tensor, layer: int) -> Tensor:
        plain = super().state(tokens, positions, layer)
        plain = torch.where((tokens == self.bad)[..., None] & (layer == 3), float("inf"), plain)
        return torch.where((positions == 5)[..., None] & (layer == 2), float("nan"), plain)


def test_states_that_are_not_finite_are_named_with_their_place() -> None:
    blocks = CORPUS.splits["train"]
    bad = torch.from_numpy(blocks.tokens) == Broken.bad
    block, position = bad.nonzero()[0].tolist()
    batch = block // 3 * 3  # blocks of 8 tokens, 24 in a batch
    said = (
        rf"target model planted .* layer 3: {int(bad[batch : batch + 3].sum())} of 24 tokens .* "
        rf"block {block} at position {position} \(token {Broken.bad}\).*recording\.non_finite=exclude"
    )
    with pytest.raises(NonFiniteActivations, match=said):
        rows(blocks, {}, (PlantedModel(6), Broken(10, seed=1)), filter=FILTERS["none"])
    with pytest.raises(NonFiniteActivations, match=r"source model planted .* layer 2: 3 of 24 tokens"):
        rows(blocks, {}, (Broken(6), PlantedModel(10, seed=1)), filter=FILTERS["none"])


@pytest.mark.parametrize("start", [0, 9])
def test_states_that_are_not_finite_are_counted_by_layer_and_leave(tmp_path: Path, start: int) -> None:
    pair: Any = (Broken(6), Broken(10, seed=1))
    blocks = CORPUS.splits["train"]
    tokens = torch.from_numpy(blocks.tokens)
    medians = median_norms(
        *pair, *LAYERS, blocks, at_most_tokens=10**6, batch_tokens=24, non_finite="exclude"
    )
    assert all(map(math.isfinite, medians.values()))
    found = rows(blocks, medians, pair, non_finite="exclude", start=start)
    counted: Counter[str] = Counter()
    for each in found:
        counted.update(each.non_finite)
    seen = tokens[start:]
    # block 1 of the source has none, and is not among them
    assert counted == {"source.2": len(seen), "target.3": int((seen == Broken.bad).sum())}
    assert counted["target.3"] > 3
    stays = (seen != MASSIVE_TOKEN) & (seen != Broken.bad)
    stays[:, [0, 5]] = False
    assert joined(found)["source"].isfinite().all()
    assert len(joined(found)["source"]) == int(stays.sum())
    if start == 0:  # as a store counts them and leaves them out
        store = make_store(tmp_path, CORPUS, source=pair[0], target=pair[1], non_finite="exclude")
        assert counted == sum((Counter(shard.non_finite) for shard in store.shards("train")), Counter())
        for key, value in recorded(store, "train", RowFilter(), 1).items():
            assert torch.equal(joined(found)[key], value), key


def test_sound_states_count_nothing() -> None:
    assert [each.non_finite for each in rows(CORPUS.splits["test"], {}, filter=FILTERS["none"])] == [{}, {}]
