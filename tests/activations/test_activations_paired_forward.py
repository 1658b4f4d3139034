import math
from collections import Counter
from collections.abc import Mapping
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
    RowFilter,
    Selection,
    median_norms,
    paired_rows,
)
from lrt.corpora import PackedCorpus, Split
from lrt.errors import InvalidValue

CORPUS = corpus_of()
LAYERS: tuple[tuple[int, ...], tuple[int, ...]] = ((1, 2), (3,))
FILTERS = {
    "default": RowFilter(),
    "none": RowFilter(max_norm_ratio=None, first_position=False),
    "tokens": RowFilter(token_ids=(1, 2, 3)),
}


def models(**settings: Any) -> tuple[Any, Any]:
    """The models that `make_store` records."""
    return PlantedModel(6, **settings), PlantedModel(10, seed=1, **settings)


def rows(
    split: Split,
    medians: Mapping[str, float],
    pair: Any = None,
    filter: RowFilter = FILTERS["default"],
    pool: int = 1,
    parts: tuple[str, ...] = (),
    rules: tuple[PartRule, ...] = (),
    corpus: PackedCorpus = CORPUS,
    **settings: Any,
) -> list[PairedRows]:
    selection = Selection(*LAYERS, filter, pool, parts, rules)
    settings = {"batch_tokens": 24, **settings}
    return [*paired_rows(*(pair or models()), selection, corpus, split, medians=medians, **settings)]


def medians_of(pair: Any, **settings: Any) -> dict[str, float]:
    settings = {"at_most_tokens": 10**6, "batch_tokens": 24, **settings}
    return median_norms(*pair, *LAYERS, CORPUS, **settings)


def joined(parts: list[PairedRows]) -> dict[str, Tensor]:
    """As a store's stream: a side's layers concatenated."""
    return {
        "source": torch.cat([torch.cat(list(each.source.values()), dim=1) for each in parts]),
        "target": torch.cat([torch.cat(list(each.target.values()), dim=1) for each in parts]),
        "document": torch.cat([each.document for each in parts]),
    }


def recorded(
    store: ActivationStore, split: Split, filter_: RowFilter, pool: int, parts: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    selection = Selection(*LAYERS, filter_, pool, parts)
    batches = list(ActivationDataModule(store.folder, selection, chunk_rows=8).iterate(split))
    return {key: torch.cat([batch[key] for batch in batches]) for key in ("source", "target", "document")}


@pytest.mark.parametrize("filter_", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize(
    ("pool", "batch_tokens", "split"),
    [(1, 24, "train"), (4, 24, "train"), (4, 1, "test"), (1, 8192, "validation")],
)
def test_rows_are_those_of_a_store(
    store: ActivationStore, filter_: RowFilter, pool: int, batch_tokens: int, split: Split
) -> None:
    medians = store.manifest.median_norms
    parts = rows(split, medians, filter=filter_, pool=pool, batch_tokens=batch_tokens)
    wanted = recorded(store, split, filter_, pool)
    if pool == 1:
        assert (0 < len(wanted["source"]) < store.rows(split)) == (filter_.max_norm_ratio is not None)
    for key, value in joined(parts).items():
        assert torch.equal(value, wanted[key]), key
        assert value.dtype == (torch.int64 if key == "document" else torch.float32)
    assert [each.sequences for each in parts][-1] == len(CORPUS.splits[split])


def test_rows_of_one_part_of_the_mixture(store: ActivationStore) -> None:
    one = joined(rows("train", store.manifest.median_norms, pool=4, parts=("odd",)))
    wanted = recorded(store, "train", RowFilter(), 4, ("odd",))
    for key, value in one.items():
        assert torch.equal(value, wanted[key]), key
    assert set((one["document"] % 2).tolist()) == {1}


def test_last_tokens_and_repeated_rows_are_those_of_a_store(tmp_path: Path) -> None:
    corpus = corpus_of(document_tokens=3)
    store = make_store(tmp_path, corpus)
    rules = (PartRule("odd", "last_tokens"), PartRule("even", repeat=3))
    # whole documents in a batch and a chunk, or a last token could be a batch's
    settings: dict[str, Any] = {"pool": 4, "rules": rules, "corpus": corpus, "batch_tokens": 64}
    one = joined(rows("train", store.manifest.median_norms, **settings))
    selection = Selection(*LAYERS, RowFilter(), 4, rules=rules)
    batches = list(ActivationDataModule(store.folder, selection, chunk_rows=16).iterate("train"))
    for key, value in one.items():
        assert torch.equal(value, torch.cat([batch[key] for batch in batches])), key
    assert sum(int(document) % 2 for document in one["document"].unique()) > 10


def test_rows_of_a_lower_precision_are_those_of_a_store(tmp_path: Path) -> None:
    pair = models(dtype=torch.bfloat16)
    store = make_store(tmp_path, CORPUS, source=pair[0], target=pair[1])
    for pool in (1, 4):
        one = joined(rows("test", store.manifest.median_norms, pair, pool=pool))
        for key, value in recorded(store, "test", RowFilter(), pool).items():
            assert torch.equal(one[key], value), key


def test_a_token_that_is_massive_at_one_layer_is_excluded_at_all() -> None:
    class Once(PlantedModel):
        def state(self, tokens: Tensor, positions: Tensor, layer: int) -> Tensor:
            plain = super().state(tokens, positions, layer)
            return torch.where((tokens == 5)[..., None] & (layer == 2), 1e3 * plain, plain)

    pair: Any = (Once(6), PlantedModel(10, seed=1))
    used = joined(rows("train", medians_of(pair), pair))
    tokens = torch.from_numpy(CORPUS.splits["train"].tokens)
    usable = (tokens != MASSIVE_TOKEN) & (torch.arange(8) > 0)
    assert len(used["source"]) == int((usable & (tokens != 5)).sum()) < int(usable.sum())


def test_a_continued_pass_has_the_same_batches() -> None:
    medians = medians_of(models())
    whole = rows("train", medians, pool=4)
    rest = rows("train", medians, pool=4, start=whole[4].sequences)
    assert [each.sequences for each in rest] == [each.sequences for each in whole[5:]]
    for one, other in zip(rest, whole[5:], strict=True):
        for key, value in joined([one]).items():
            assert torch.equal(value, joined([other])[key]), key
    assert rows("train", medians, start=len(CORPUS.splits["train"])) == []


def test_one_forward_pass_of_each_model_a_batch() -> None:
    pair = models()
    parts = rows("train", {}, pair, filter=FILTERS["none"])
    assert [model.calls for model in pair] == [len(parts), len(parts)] == [14, 14]


def test_a_batch_without_rows_counts_its_sequences_and_excluded_tokens() -> None:
    everything = RowFilter(max_norm_ratio=None, token_ids=tuple(range(50)))
    parts = rows("test", {}, filter=everything)
    assert [each.sequences for each in parts] == [3, 5]
    assert [sum(each.excluded.values()) for each in parts] == [24, 16]
    assert joined(parts)["source"].shape == (0, 12)
    assert joined(parts)["document"].shape == (0,)


def test_medians_are_the_stores_over_all_tokens(store: ActivationStore) -> None:
    assert medians_of(models()) == dict(store.manifest.median_norms)


def test_medians_of_the_first_tokens() -> None:
    pair = models()
    some = medians_of(pair, at_most_tokens=47, batch_tokens=16)
    assert pair[0].calls == 3  # five sequences of eight tokens, two at a time
    tokens = torch.from_numpy(CORPUS.splits["train"].tokens[:5]).long()
    states = pair[0].state(tokens, torch.arange(8).expand(5, 8), 2)[:, 1:]
    assert some["source.2"] == float(states.norm(dim=-1).flatten().median())
    assert set(some) == {"source.1", "source.2", "target.3"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 41}, "start=41"),
        ({"start": -1}, "start=-1"),
        ({"batch_tokens": 0}, r"recording\.batch_tokens=0"),
        ({"parts": ("none",)}, r"corpus\.sources\.none"),
        ({}, r"source\.1, source\.2, target\.3"),  # the medians that the filter needs
    ],
)
def test_invalid_settings_are_refused_before_any_work(settings: dict[str, Any], message: str) -> None:
    pair = models()
    with pytest.raises(ValueError, match=message):
        rows("train", {}, pair, **settings)
    assert pair[0].calls == 0


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (((4,), (3,)), r"layers\.source=4"),
        (((1,), (-1,)), r"layers\.target=-1"),
        (((1,), ()), r"layers\.target"),
    ],
)
def test_layers_that_a_model_lacks(layers: tuple[tuple[int, ...], tuple[int, ...]], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        median_norms(*models(), *layers, CORPUS, at_most_tokens=8, batch_tokens=8)
    if all(layers):  # else there is no such selection
        selection = Selection(*layers, RowFilter())
        with pytest.raises(InvalidValue, match=message):
            paired_rows(*models(), selection, CORPUS, "train", medians={}, batch_tokens=8)


def test_medians_of_nothing() -> None:
    with pytest.raises(InvalidValue, match=r"corpus\.tokens\.train"):
        median_norms(*models(), *LAYERS, corpus_of(train=0), at_most_tokens=8, batch_tokens=8)
    with pytest.raises(ValueError, match="at_most_tokens=0"):
        medians_of(models(), at_most_tokens=0)


class Broken(PlantedModel):
    """At block 3 the states of one token are infinite, at block 2 those of position 5 are NaN."""

    bad = 7

    def state(self, tokens: Tensor, positions: Tensor, layer: int) -> Tensor:
        plain = super().state(tokens, positions, layer)
        plain = torch.where((tokens == self.bad)[..., None] & (layer == 3), float("inf"), plain)
        return torch.where((positions == 5)[..., None] & (layer == 2), float("nan"), plain)


def test_states_that_are_not_finite_are_named_with_their_place() -> None:
    bad = torch.from_numpy(CORPUS.splits["train"].tokens) == Broken.bad
    sequence, position = bad.nonzero()[0].tolist()
    batch = sequence // 3 * 3  # sequences of 8 tokens, 24 in a batch
    message = (
        rf"target model planted .* layer 3, for {int(bad[batch : batch + 3].sum())} tokens .* "
        rf"train sequence {sequence}, position {position} \(token {Broken.bad}, "
        r".*recording\.non_finite=exclude"
    )
    with pytest.raises(NonFiniteActivations, match=message):
        rows("train", {}, (PlantedModel(6), Broken(10, seed=1)), filter=FILTERS["none"])
    with pytest.raises(NonFiniteActivations, match=r"source model planted .* layer 2, for 3 tokens"):
        rows("test", {}, (Broken(6), PlantedModel(10, seed=1)), filter=FILTERS["none"])


@pytest.mark.parametrize("start", [0, 9])
def test_states_that_are_not_finite_are_counted_by_layer_and_excluded(tmp_path: Path, start: int) -> None:
    pair: Any = (Broken(6), Broken(10, seed=1))
    tokens = torch.from_numpy(CORPUS.splits["train"].tokens)
    medians = medians_of(pair, non_finite="exclude")
    assert all(map(math.isfinite, medians.values()))
    parts = rows("train", medians, pair, non_finite="exclude", start=start)
    counted: Counter[str] = Counter()
    for each in parts:
        counted.update(each.non_finite)
    read = tokens[start:]
    # block 1 of the source is finite, and is omitted
    assert counted == {"source.2": len(read), "target.3": int((read == Broken.bad).sum())}
    assert counted["target.3"] > 3
    usable = (read != MASSIVE_TOKEN) & (read != Broken.bad)
    usable[:, [0, 5]] = False
    assert joined(parts)["source"].isfinite().all()
    assert len(joined(parts)["source"]) == int(usable.sum())
    if start == 0:  # as a store counts and excludes them
        store = make_store(tmp_path, CORPUS, source=pair[0], target=pair[1], non_finite="exclude")
        assert counted == sum((Counter(shard.non_finite) for shard in store.shards("train")), Counter())
        for key, value in recorded(store, "train", RowFilter(), 1).items():
            assert torch.equal(joined(parts)[key], value), key
