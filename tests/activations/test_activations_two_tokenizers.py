"""States of two models that read the same text in different tokens."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_states import MASSIVE_TOKEN, VOCABULARY, PlantedModel, bytes_of, make_store, recording_of
from torch import Tensor

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    PairedRows,
    PartRule,
    RowFilter,
    Selection,
    StoreForeign,
    paired_rows,
    pairs_with_other_source,
    plan_recording,
    record,
)
from lrt.activations.chunks import PartRules, rows_of
from lrt.corpora import PADDING, SPLITS, Alignment, PackedCorpus, Sequences
from lrt.corpora.aligned_packing import AlignedPiece, cut_aligned
from lrt.corpora.alignment import AlignedText
from lrt.errors import InvalidValue
from lrt.models.sides import SIDES, Side

CONTEXT = 12
LAYERS = {"source": 2, "target": 3}
POOL = 3


def aligned_corpus(seed: int = 0, documents: int = 60) -> PackedCorpus:
    """Random tokens in spans of one to three tokens of either model, of two groups in turn."""
    rng = np.random.default_rng(seed)
    splits = {}
    for number, split in enumerate(SPLITS):
        pieces = []
        for document in range(documents if split == "train" else 12):
            count = rng.integers(2, 9)
            sizes = {side: rng.choice([1, 1, 1, 2, 3], count) for side in SIDES}
            stops = {side: np.cumsum(each) for side, each in sizes.items()}
            chars = np.cumsum(rng.integers(1, 5, count))
            ends = [stops["source"], stops["target"], chars]
            bounds = np.stack([each for stop in ends for each in (np.append(0, stop[:-1]), stop)], axis=1)
            ids = {side: rng.integers(0, VOCABULARY, each[-1]) for side, each in stops.items()}
            # the first of each document marks its beginning, and belongs to no span
            text = AlignedText(ids, bounds)
            begin: dict[Side, tuple[int, ...]] = {"source": (1,), "target": (2, 3)}
            end: dict[Side, tuple[int, ...]] = {"source": (), "target": (4,)}
            group = "even" if document % 2 == 0 else "odd"
            pieces.append(AlignedPiece.of(1000 * number + document, group, text, begin, end))
        cut = cut_aligned(pieces, ("even", "odd"), CONTEXT, np.inf)
        alignment = Alignment(cut.tokens["target"], cut.bounds)
        splits[split] = Sequences(cut.tokens["source"], cut.documents, cut.groups, alignment)
    return PackedCorpus(CONTEXT, ("even", "odd"), splits)


CORPUS = aligned_corpus()
MODELS = {"source": PlantedModel(6), "target": PlantedModel(10, seed=1)}


def planted_rows(
    pool: int, alone: int | None = None, source: PlantedModel | None = None
) -> Iterator[tuple[int, list[Tensor]]]:
    """The rows of the training split one by one, by hand: a document's id, and the state of either side.

    alone   The group of which each span is a row.
    source  Another source, whose massive tokens are rows like any.
    """
    models = MODELS if source is None else {**MODELS, "source": source}
    massive_of = SIDES if source is None else ("target",)
    sequences = CORPUS.splits["train"]
    assert sequences.alignment is not None
    for number in range(len(sequences)):
        tokens = {side: sequences.tokens_of(side)[number] for side in SIDES}
        pools: dict[tuple[int, int, int], list[dict[Side, list[int]]]] = {}
        for at, document in enumerate(sequences.documents[number]):
            if document == PADDING:
                continue
            bounds = sequences.alignment.bounds[number, at]
            single = pool == 1 or sequences.groups[number, at] == alone
            places = {side: list(range(bounds[2 * i], bounds[2 * i + 1])) for i, side in enumerate(SIDES)}
            if single:
                places = {side: each[-1:] for side, each in places.items()}
            massive = any(tokens[s][p] == MASSIVE_TOKEN for s in massive_of for p in places[s])
            if massive or any(0 in each for each in places.values()):
                continue
            key = (at, 0, 0) if single else (at // pool, int(document), 1)
            pools.setdefault(key, []).append(places)
        for (_, document, pooled), each in sorted(pools.items(), key=lambda item: min(item[1][0]["source"])):
            if pooled and 2 * len(each) < pool:
                continue
            owner = document if pooled else int(sequences.documents[number, _])
            states = []
            for side in SIDES:
                at_ = torch.tensor([p for places in each for p in places[side]])
                ids = torch.from_numpy(tokens[side].astype(np.int64))[at_]
                states.append(models[side].state(ids, at_, LAYERS[side]).mean(dim=0))
            yield owner, states


NO_FILTER = RowFilter(max_norm_ratio=None, first_position=False)


def selection(pool: int, **settings: Any) -> Selection:
    return Selection(
        (LAYERS["source"],), (LAYERS["target"],), pool=pool, **{"filter": RowFilter(), **settings}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return make_store(tmp_path_factory.mktemp("two") / "store", CORPUS, rows_per_shard=5 * CONTEXT)


@pytest.mark.parametrize(("pool", "alone"), [(1, None), (POOL, None), (POOL, 1)])
def test_rows_are_those_of_spans(store: ActivationStore, pool: int, alone: int | None) -> None:
    rules = () if alone is None else (PartRule("odd", "tokens"),)
    chosen = selection(pool, rules=rules)
    expected = list(planted_rows(pool, alone))
    medians = store.manifest.median_norms
    passed = list(
        paired_rows(*MODELS.values(), chosen, CORPUS, "train", medians=medians, batch_tokens=5 * CONTEXT)
    )
    kept = [*ActivationDataModule(store.folder, chosen, batch_rows=7, chunk_rows=1).iterate("train")]
    for side, number in (("source", 0), ("target", 1)):
        planted = torch.stack([states[number] for _, states in expected])
        layer = LAYERS[side]
        torch.testing.assert_close(torch.cat([getattr(part, side)[layer] for part in passed]), planted)
        torch.testing.assert_close(torch.cat([batch[side] for batch in kept]), planted)
    documents = [document for document, _ in expected]
    assert torch.cat([part.document for part in passed]).tolist() == documents
    assert torch.cat([batch["document"] for batch in kept]).tolist() == documents


def test_the_end_of_a_document_is_its_last_token_in_each_model() -> None:
    chosen = selection(POOL, parts=("odd",), rules=(PartRule("odd", "last_tokens"),), filter=NO_FILTER)
    passed = paired_rows(*MODELS.values(), chosen, CORPUS, "train", medians={}, batch_tokens=10**6)
    rows = [row for part in passed for row in zip(part.document.tolist(), *states_of(part), strict=True)]
    sequences = CORPUS.splits["train"]
    assert sequences.alignment is not None
    spans = (sequences.documents != PADDING).nonzero()
    owners = sequences.documents[spans]
    expected = []
    for (number, at), one, following in zip(zip(*spans, strict=True), owners, owners[1:], strict=False):
        whole = one not in sequences.documents[number, :1]  # begun within the sequence
        if one != following and whole and sequences.groups[number, at] == 1:
            expected.append((int(one), int(number), int(at)))
    assert len(expected) > 3
    assert [document for document, *_ in rows] == [document for document, *_ in expected]
    for (_, *states), (_, number, at) in zip(rows, expected, strict=True):
        for i, side in enumerate(SIDES):
            last = torch.tensor(sequences.alignment.bounds[number, at, 2 * i + 1] - 1)
            token = torch.tensor(sequences.tokens_of(side)[number, last])
            torch.testing.assert_close(states[i], MODELS[side].state(token, last, LAYERS[side]))


def test_the_end_of_a_template_is_a_row_where_a_batch_ends_with_it() -> None:
    """Two documents in one sequence, and nothing after them that would tell that the second has ended."""
    spans = {"document": [7, 7, 8, 8, 8], "start.text": [0, 2, 0, 3, 5], "stop.text": [2, 4, 3, 5, 5]}
    facts = {name: torch.tensor(values) for name, values in spans.items()}
    facts |= {"position": torch.arange(5), "group": torch.zeros(5, dtype=torch.int64)}
    for side in SIDES:
        facts |= {f"start.{side}": torch.arange(5), f"stop.{side}": torch.arange(1, 6)}
        facts[f"token.{side}"] = torch.arange(10, 15)
    chosen = selection(POOL, filter=NO_FILTER, rules=(PartRule("chat", "last_tokens"),))
    rows = rows_of(chosen, {}, {}, facts, rules=PartRules.of(chosen, ("chat",)))
    assert rows.count == 1
    for side in SIDES:  # the first document begins the sequence, where its beginning may be cut off
        assert rows.gathered(facts[f"token.{side}"], side).tolist() == [14]
    facts["stop.text"][-1] = 6  # with characters, the document may go on
    assert rows_of(chosen, {}, {}, facts, rules=PartRules.of(chosen, ("chat",))).count == 0


def states_of(part: PairedRows) -> tuple[Tensor, Tensor]:
    return part.source[LAYERS["source"]], part.target[LAYERS["target"]]


@pytest.mark.parametrize("pool", [1, POOL])
def test_shuffled_rows_are_the_same_pairs(store: ActivationStore, pool: int) -> None:
    module = ActivationDataModule(store.folder, selection(pool), batch_rows=5, chunk_rows=2, window_rows=40)
    module.setup()
    stream = module._stream("train", seed=3)
    rows = Counter(
        tuple(np.round(torch.cat([s, t]).numpy(), 3).tolist())
        for batch in stream.batches()
        for s, t in zip(batch["source"], batch["target"], strict=True)
    )
    planted = Counter(
        tuple(np.round(torch.cat(states).numpy(), 3).tolist()) for _, states in planted_rows(pool)
    )
    assert rows == planted


@pytest.mark.parametrize("pool", [1, POOL])
def test_another_source_reads_the_sources_tokens(store: ActivationStore, pool: int) -> None:
    other = PlantedModel(6, seed=4)
    expected = list(planted_rows(pool, source=other))
    batches = list(pairs_with_other_source(store, "train", other, selection(pool), batch_tokens=5 * CONTEXT))
    for number, side in enumerate(SIDES):
        planted = torch.stack([states[number] for _, states in expected])
        torch.testing.assert_close(torch.cat([batch[side] for batch in batches]), planted)
    assert torch.cat([batch["document"] for batch in batches]).tolist() == [owner for owner, _ in expected]


def test_a_store_has_each_models_tokens_and_the_characters_of_spans(store: ActivationStore) -> None:
    assert store.plan.aligned
    assert store.plan.as_json()["aligned"] is True
    names = ["token.source", "token.target", "start.text", "stop.text", "norm.source.2", "document"]
    rows = {n: torch.cat([part[n] for part in store.stream("train", names)]) for n in names}
    sequences = CORPUS.splits["train"]
    for side in SIDES:
        assert rows[f"token.{side}"].tolist() == sequences.tokens_of(side).ravel().tolist()
    spans = rows["document"] != PADDING
    assert (rows["start.text"] < rows["stop.text"])[spans].all()
    assert (rows["norm.source.2"][rows["token.source"] == PADDING] == 0).all()
    store.verify(full=True)


def test_medians_are_of_tokens_alone(store: ActivationStore) -> None:
    for side in SIDES:
        tokens = torch.from_numpy(CORPUS.splits["train"].tokens_of(side)[:, 1:].astype(np.int64))
        positions = torch.arange(1, CONTEXT).expand(tokens.shape)[tokens != PADDING]
        layer = LAYERS[side]
        norms = MODELS[side].state(tokens[tokens != PADDING], positions, layer).norm(dim=-1)
        assert store.manifest.median_norms[f"{side}.{layer}"] == pytest.approx(float(norms.median()))


@pytest.mark.parametrize("states", ["native", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_recording_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path, states: str) -> None:
    settings = recording_of(CORPUS, rows_per_shard=5 * CONTEXT, states=states)
    whole = record(tmp_path / "whole", **settings)

    def stop(done: int, _: int) -> None:
        if done > 12 * CONTEXT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "stopped", **settings, progress=stop)
    assert bytes_of(record(tmp_path / "stopped", **settings).folder) == bytes_of(whole.folder)
    rows = [b["source"] for b in ActivationDataModule(whole.folder, selection(POOL)).iterate("train")]
    planted = torch.stack([each[0] for _, each in planted_rows(POOL)])
    torch.testing.assert_close(torch.cat(rows), planted, atol=0 if states == "native" else 0.1, rtol=1e-4)


def test_a_changed_token_of_either_model_is_noticed(store: ActivationStore) -> None:
    changed = replace(CORPUS.splits["train"].alignment, tokens=CORPUS.splits["train"].tokens_of("target") + 1)
    other = replace(
        CORPUS, splits={**CORPUS.splits, "train": replace(CORPUS.splits["train"], alignment=changed)}
    )
    assert other.digest != CORPUS.digest
    plan = plan_recording(*MODELS.values(), [1, 2], [3], other, rows_per_shard=5 * CONTEXT, batch_tokens=24)
    with pytest.raises(StoreForeign, match="corpus"):
        ActivationStore.open(store.folder, expect=plan)


def test_ids_of_one_vocabulary_are_refused(store: ActivationStore) -> None:
    chosen = Selection((2,), (3,), RowFilter(token_ids=(4,)))
    with pytest.raises(InvalidValue, match=r"filter\.token_ids"):
        ActivationDataModule(store.folder, chosen).setup()


@pytest.mark.parametrize(
    ("states", "digest"),
    [
        ("native", "a2919796a9283365f9cc69f77bcd36ead7e0a34cf464ba06fcdf9dc322fb64c9"),
        ("int8", "0742bca987e447e3ff7329a5d70b3ed684599a315d66463425a5750c1a47914f"),
    ],
)
def test_a_store_of_one_tokenizer_is_to_the_byte_what_it_was(
    tmp_path: Path, states: str, digest: str
) -> None:
    store = make_store(tmp_path / "s", states=states)
    assert store.plan.corpus == "587c726ea89974267525e984727683a695c75dc92acb1adcd8565872f3229097"
    assert "aligned" not in store.plan.as_json()
    files = json.dumps([shard.sha256 for shard in store.manifest.shards])
    assert hashlib.sha256(files.encode()).hexdigest() == digest
