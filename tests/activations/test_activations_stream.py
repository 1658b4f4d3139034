import threading
import tracemalloc
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted_states import MASSIVE_TOKEN, PlantedModel, corpus_of, make_store

from lrt.activations import ActivationStore, PartRule, RowFilter, Selection, StoreForeign
from lrt.activations.chunks import PartRules, chunks_of, rows_of
from lrt.activations.loaders import InOrder, Resumable
from lrt.activations.stream import SHARDS_TOGETHER, RowStream
from lrt.activations.windows import Batch, CopiedWindow, WindowLoader, in_float32
from lrt.corpora import PackedCorpus
from lrt.errors import InvalidValue

CORPUS = corpus_of()
STANDARD = RowFilter()


def stream_of(store: ActivationStore, rows: RowFilter = STANDARD, **changes: Any) -> RowStream:
    selection = changes.pop("selection", None) or Selection((2,), (3,), rows)
    sizes = {"batch_rows": 12, "chunk_rows": 5, "window_rows": 60, "seed": 0, **changes}
    chunks = chunks_of(store, "train", selection, sizes["chunk_rows"])
    return RowStream(store, "train", selection, chunks, **sizes)


def planted_rows(corpus: PackedCorpus, everything: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of a filtered stream, in order, from the models and not from the store."""
    tokens = torch.from_numpy(corpus.splits["train"].tokens)
    positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
    keep = torch.full(tokens.shape, True) if everything else (positions > 0) & (tokens != MASSIVE_TOKEN)
    tokens, positions = tokens[keep], positions[keep]
    return (
        PlantedModel(6).state(tokens, positions, 2),
        PlantedModel(10, seed=1).state(tokens, positions, 3),
    )


def key(batch: Batch) -> list[tuple[float, ...]]:
    together = torch.cat([batch["source"], batch["target"], batch["document"][:, None]], dim=1)
    return [tuple(row) for row in together.tolist()]


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
        for x, y in zip(a, b, strict=True)
    )


def test_rows_in_order_are_the_planted_ones(store: ActivationStore) -> None:
    for rows, everything in ((RowFilter(), False), (RowFilter(None, False), True)):
        batches = [*stream_of(store, rows, seed=None).batches()]
        source, target = planted_rows(CORPUS, everything)
        assert torch.equal(torch.cat([b["source"] for b in batches]), source)
        assert torch.equal(torch.cat([b["target"] for b in batches]), target)
        assert {len(b["source"]) for b in batches[:-1]} == {12}


@pytest.mark.parametrize(
    ("pool", "compact", "dtypes"),
    [
        (1, False, (torch.float32, torch.float32)),
        (1, True, (torch.bfloat16, torch.float32)),
        (4, False, (torch.float32, torch.float32)),
        (4, True, (torch.float32, torch.float32)),  # means are computed in float32
    ],
)
def test_batches_have_the_dtypes_a_fit_computes_in_or_those_of_the_store(
    tmp_path: Path, pool: int, compact: bool, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    wide = PlantedModel(10, seed=1, dtype=torch.float64)
    store = make_store(tmp_path, source=PlantedModel(6, dtype=torch.bfloat16), target=wide)
    selection = Selection((2,), (3,), STANDARD, pool)
    batches = [*stream_of(store, selection=selection, compact=compact).batches()]
    assert {name: rows.dtype for name, rows in batches[0].items()} == {
        "source": dtypes[0],
        "target": dtypes[1],
        "document": torch.int64,
        "group": torch.int64,
    }
    assert torch.equal(batches[0]["group"], batches[0]["document"] % 2)
    # converted afterwards, they are the same to the bit
    assert same([in_float32(b) for b in batches], [*stream_of(store, selection=selection).batches()])


@pytest.fixture(scope="module")
def in_order(store: ActivationStore) -> Counter[Any]:
    return Counter(row for batch in stream_of(store, seed=None).batches() for row in key(batch))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch_rows=st.integers(1, 300),
    chunk_rows=st.integers(1, 80),
    window_rows=st.integers(1, 400),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
)
def test_an_epoch_is_a_permutation_whatever_the_sizes(
    store: ActivationStore, in_order: Counter[Any], epoch: int, **sizes: int
) -> None:
    stream = stream_of(store, **sizes)
    batches = [*stream.batches(epoch)]
    assert len(batches) == len(stream)
    assert Counter(row for b in batches for row in key(b)) == in_order


def test_pairs_stay_paired_under_the_shuffle(store: ActivationStore) -> None:
    source, target = PlantedModel(6).table, PlantedModel(10, seed=1).table
    for batch in stream_of(store).batches():
        # the nearest row of each side's table is its token
        shift = batch["source"].mean(1, keepdim=True) - 2
        token = torch.cdist(batch["source"] - 2, source).argmin(1)
        other = torch.cdist(batch["target"] - 3, target).argmin(1)
        assert torch.equal(token, other)
        assert shift.isfinite().all()


def test_seed_and_epoch_draw_the_order(store: ActivationStore) -> None:
    base = [*stream_of(store).batches(0)]
    assert same(base, [*stream_of(store).batches(0)])
    assert not same(base, [*stream_of(store).batches(1)])
    assert not same(base, [*stream_of(store, seed=1).batches(0)])


def test_the_shuffle_mixes_documents(store: ActivationStore) -> None:
    plain = [len(b["document"].unique()) for b in stream_of(store, seed=None).batches()]
    mixed = [len(b["document"].unique()) for b in stream_of(store, window_rows=300).batches()]
    assert max(plain) <= 3
    assert sum(mixed) / len(mixed) > 6


@pytest.mark.parametrize("workers", [1, 5])
def test_workers_change_no_batch(store: ActivationStore, workers: int) -> None:
    for seed in (None, 3):
        alone = [*stream_of(store, seed=seed).batches(1)]
        assert same(alone, [*stream_of(store, seed=seed, workers=workers).batches(1)])


def test_an_epoch_can_be_entered_anywhere_by_loading_one_window(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stream_of(store)
    whole = [*stream.batches(2)]
    for start in range(len(whole) + 1):
        assert same([*stream.batches(2, start)], whole[start:])
    loaded = []
    load = WindowLoader.load
    monkeypatch.setattr(WindowLoader, "load", lambda self, *a: loaded.append(a) or load(self, *a))
    next(stream.batches(2, len(whole) - 2))
    assert len(loaded) <= 2


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_an_epoch_out(store: ActivationStore, world: int) -> None:
    stream = stream_of(store)
    whole = [*stream.batches(1)]
    for rank in range(world):
        assert same([*stream.batches(1, rank=rank, world=world)], whole[rank::world])
        assert same([*stream.batches(1, 2, rank, world)], whole[rank::world][2:])
    # a step of all processes is the rows of one process with the larger batch
    large = next(stream_of(store, batch_rows=12 * world).batches(1))
    step = [next(stream.batches(1, rank=rank, world=world)) for rank in range(world)]
    assert Counter(row for b in step for row in key(b)) == Counter(key(large))
    loaders = [Resumable(stream, rank, world) for rank in range(world)]
    assert {len(loader) for loader in loaders} == {len(whole) // world}
    assert all(len([*loader]) == len(loader) for loader in loaders)
    evaluated = [b for rank in range(world) for b in InOrder(stream_of(store, seed=None), rank, world)]
    assert sum(len(b["source"]) for b in evaluated) == stream.chunks.rows


def test_training_has_no_smaller_last_batch(store: ActivationStore) -> None:
    rows = stream_of(store).chunks.rows
    assert rows % 12
    assert len(stream_of(store)) == rows // 12 + 1
    assert len(stream_of(store, complete_only=True)) == rows // 12
    alone = stream_of(store, complete_only=True, batch_rows=1000)
    assert [len(b["source"]) for b in alone.batches()] == [rows]


def test_counts_of_excluded_tokens(store: ActivationStore) -> None:
    tokens = CORPUS.splits["train"].tokens
    chunks = stream_of(store).chunks
    massive = int((tokens[:, 1:] == MASSIVE_TOKEN).sum())
    assert massive > 0
    assert chunks.excluded == {"first position": 40, "massive": massive}
    assert chunks.rows == 320 - 40 - massive
    assert chunks.counts.sum() == chunks.rows


def test_leaving_early_ends_the_threads(store: ActivationStore) -> None:
    batches = stream_of(store, workers=2).batches()
    next(batches)
    assert any(t.name.startswith("rows") for t in threading.enumerate())
    batches.close()
    assert not any(t.name.startswith("rows") for t in threading.enumerate())


def test_a_loaders_thread_ends_with_it(store: ActivationStore) -> None:
    before = threading.active_count()
    for loader in (Resumable(stream_of(store)), InOrder(stream_of(store, seed=None))):
        batches = iter(loader)
        next(batches)
        assert threading.active_count() > before
        batches.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before


@pytest.mark.parametrize("world", [2, 5, 40])
def test_a_process_without_a_batch_gets_one_without_rows(store: ActivationStore, world: int) -> None:
    # else it would skip the sums at the end of the epoch, for which the others wait
    loaders = [InOrder(stream_of(store, seed=None, batch_rows=100), rank, world) for rank in range(world)]
    batches = [[*loader] for loader in loaders]
    assert [len(each) for each in batches] == [len(loader) for loader in loaders]
    assert min(map(len, batches)) == 1
    whole = [*stream_of(store, seed=None, batch_rows=100).batches()]
    assert sum(len(b["source"]) for each in batches for b in each) == sum(len(b["source"]) for b in whole)
    for each in batches[len(whole) :]:
        assert {n: (v.shape[1:], v.dtype) for n, v in each[0].items()} == {
            n: (v.shape[1:], v.dtype) for n, v in whole[0].items()
        }


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Many small shards."""
    return make_store(tmp_path_factory.mktemp("long"), corpus_of(train=200), batch_tokens=64)


@pytest.mark.parametrize("pool", [1, 2])
def test_a_window_needs_few_files_however_many_there_are(
    long_store: ActivationStore, monkeypatch: pytest.MonkeyPatch, pool: int
) -> None:
    assert len(long_store.shards("train")) > 20
    needed: list[set[int]] = []
    load = WindowLoader.load
    selection = Selection((2,), (3,), STANDARD, pool)
    stream = stream_of(long_store, selection=selection, window_rows=60, chunk_rows=4)

    def counted(self: WindowLoader, chunks: Any, order: Any) -> Any:
        needed.append(set(stream.chunks.shard[chunks].tolist()))
        return load(self, chunks, order)

    monkeypatch.setattr(WindowLoader, "load", counted)
    epochs = []
    for epoch in range(2):
        needed.clear()
        assert sum(len(b["source"]) for b in stream.batches(epoch)) == stream.chunks.rows
        assert max(map(len, needed)) <= 2 * SHARDS_TOGETHER  # a window may span two groups of shards
        epochs.append({pair for each in needed for pair in combinations(sorted(each), 2)})
    assert epochs[0] != epochs[1]  # other shards come together


@pytest.mark.parametrize("pool", [1, 2])
def test_memory_does_not_grow_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: int) -> None:
    sizes: list[int] = []
    load = WindowLoader.load

    def measured(self: WindowLoader, chunks: Any, order: Any) -> Any:
        window = load(self, chunks, order)
        tensors = window.room if isinstance(window, CopiedWindow) else window.places
        sizes.append(sum(each.nbytes for each in tensors.values()))
        return window

    monkeypatch.setattr(WindowLoader, "load", measured)
    python = []
    for name, count in (("small", 100), ("large", 1000)):
        corpus = corpus_of(train=count)
        store = make_store(tmp_path / name, corpus, rows_per_shard=4096, batch_tokens=4096)
        selection = Selection((2,), (3,), STANDARD, pool)
        stream = stream_of(store, selection=selection, window_rows=512, chunk_rows=32, batch_rows=60)
        tracemalloc.start()
        assert sum(len(b["source"]) for b in stream.batches()) > 6 // pool * count - 50
        python.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(sizes) <= 512 * (6 * 4 + 10 * 4 + 8 + 4)  # never more than a window's rows
    # Python's objects are the table of chunks: 225 more of them, not 7200 more tokens
    assert python[1] - python[0] < 225 * 100


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("pool", [1, 2])
def test_a_batch_keeps_its_rows_when_memory_is_reused(
    long_store: ActivationStore, monkeypatch: pytest.MonkeyPatch, workers: int, pool: int
) -> None:
    windows: list[Any] = []
    load = WindowLoader.load

    def kept(self: WindowLoader, chunks: Any, order: Any) -> Any:
        windows.append(load(self, chunks, order))
        return windows[-1]

    monkeypatch.setattr(WindowLoader, "load", kept)
    for seed in (None, 3):
        windows.clear()
        selection = Selection((2,), (3,), STANDARD, pool)
        sizes = {"window_rows": 128, "chunk_rows": 32, "batch_rows": 60}
        stream = stream_of(long_store, selection=selection, seed=seed, workers=workers, **sizes)
        batches, copies = [], []
        for epoch in range(5):
            for batch in stream.batches(epoch):
                batches.append(batch)
                copies.append({name: rows.clone() for name, rows in batch.items()})
        copied = [window for window in windows if isinstance(window, CopiedWindow)]
        assert len(copied) == (len(windows) if pool > 1 else 0)
        assert len({window.room["source"].data_ptr() for window in copied}) <= 2 + workers < len(windows)
        assert same(batches, copies)  # no later window wrote into them


class TestResumable:
    def test_goes_on_where_it_was(self, store: ActivationStore) -> None:
        whole = [[*stream_of(store).batches(e)] for e in range(2)]
        loader = Resumable(stream_of(store))
        iterator = iter(loader)
        first = [next(iterator) for _ in range(4)]
        state = loader.state_dict()
        again = Resumable(stream_of(store, workers=2))
        again.load_state_dict(state)
        assert same([*first, *again], whole[0])
        assert same([*again], whole[1])

    def test_an_iterator_that_is_never_used_changes_nothing(self, store: ActivationStore) -> None:
        loader = Resumable(stream_of(store))
        iter(loader)
        iter(loader)
        assert same([*loader], [*stream_of(store).batches(0)])

    def test_set_epoch_starts_that_epoch_unless_it_is_under_way(self, store: ActivationStore) -> None:
        loader = Resumable(stream_of(store))
        iterator = iter(loader)
        next(iterator)
        loader.sampler.set_epoch(0)
        whole = [*stream_of(store).batches(0)]
        assert same([*loader], whole[1:])
        loader.set_epoch(5)
        assert same([*loader], [*stream_of(store).batches(5)])

    def test_a_place_among_other_batches_is_refused(self, store: ActivationStore) -> None:
        state = Resumable(stream_of(store)).state_dict()
        with pytest.raises(ValueError, match=r"batches\.rows=12"):
            Resumable(stream_of(store, batch_rows=6)).load_state_dict(state)

    def test_a_place_in_another_order_is_refused(self, store: ActivationStore) -> None:
        state = Resumable(stream_of(store)).state_dict()
        with pytest.raises(InvalidValue, match="order"):
            Resumable(stream_of(store)).load_state_dict({**state, "order": 1})

    def test_fewer_batches_than_processes(self, store: ActivationStore) -> None:
        with pytest.raises(ValueError, match=r"batches\.rows=400"):
            Resumable(stream_of(store, batch_rows=400), 0, 2)


@pytest.mark.parametrize("pool", [2, 3, 8])
def test_a_pooled_row_is_the_mean_of_its_tokens(store: ActivationStore, pool: int) -> None:
    stream = stream_of(store, selection=Selection((2,), (3,), STANDARD, pool), seed=None, chunk_rows=24)
    rows = torch.cat([b["source"] for b in stream.batches()])
    tokens = torch.from_numpy(CORPUS.splits["train"].tokens)
    owner = torch.from_numpy(CORPUS.splits["train"].documents)
    wanted, documents = [], []
    for sequence, owners in zip(tokens, owner, strict=True):
        for start in range(0, len(sequence), pool):
            at = torch.arange(start, min(start + pool, len(sequence)))
            at = at[(at > 0) & (sequence[at] != MASSIVE_TOKEN)]
            if 2 * len(at) >= pool:
                wanted.append(PlantedModel(6).state(sequence[at], at, 2).mean(dim=0))
                documents.append(int(owners[0]))
    torch.testing.assert_close(rows, torch.stack(wanted))
    assert torch.cat([b["document"] for b in stream.batches()]).tolist() == documents


def test_pools_end_where_a_document_ends() -> None:
    facts = {
        "position": torch.arange(8),
        "token": torch.zeros(8, dtype=torch.int64),
        "document": torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]),
    }
    everything = RowFilter(max_norm_ratio=None, first_position=False)
    assert rows_of(Selection((0,), (0,), everything, 4), {}, {}, facts).row.tolist() == [
        0,
        0,
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    made = rows_of(Selection((0,), (0,), everything, 8), {}, {}, facts)
    assert made.row.tolist() == [0] * 6 + [-1] * 2
    assert made.excluded["short pool"].tolist() == [False] * 6 + [True] * 2


def test_last_tokens_are_rows_beside_pooled_ones() -> None:
    facts = {
        "position": torch.arange(12),
        "token": torch.zeros(12, dtype=torch.int64),
        "document": torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3]),
        "group": torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0]),
    }
    everything = RowFilter(max_norm_ratio=None, first_position=False)
    chosen = Selection((0,), (0,), everything, 4, rules=(PartRule("b", "last_tokens", 3),))
    made = rows_of(chosen, {}, {}, facts, rules=PartRules.of(chosen, ("a", "b")))
    assert made.row.tolist() == [0, 0, 0, 0, -1, -1, 1, -1, -1, -1, 2, -1]
    assert made.excluded["short pool"].tolist() == [False] * 11 + [True]
    assert (
        sum(int(mask.sum()) for mask in made.excluded.values()) == 1
    )  # those before a last token are not counted
    assert made.times is not None
    assert (made.times.tolist(), made.count) == ([1, 3, 3], 7)
    assert made.gathered(torch.arange(12.0)).tolist() == [1.5, 6.0, 6.0, 6.0, 10.0, 10.0, 10.0]
    assert made.gathered(facts["document"]).tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert made.by_chunk(6).tolist() == [1, 6]
    # at the end of a chunk it is unknown whether the document ends, and at the start whether it began before
    cut = rows_of(chosen, {}, {}, facts, 7, PartRules.of(chosen, ("a", "b")))
    assert cut.row.tolist() == [0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1]
    # and at the start of a sequence, here of four positions: at document 1, and within document 2
    sequences = facts | {"position": torch.arange(12) % 4, "group": torch.ones(12, dtype=torch.int64)}
    made = rows_of(chosen, {}, {}, sequences, rules=PartRules.of(chosen, ("a", "b")))
    assert made.row.tolist() == [-1] * 12
    sequences["position"] = (torch.arange(12) + 1) % 8  # document 1 is whole, at the end of a sequence
    made = rows_of(chosen, {}, {}, sequences, rules=PartRules.of(chosen, ("a", "b")))
    assert made.row.tolist() == [-1] * 6 + [0] + [-1] * 5


def test_tokens_are_rows_beside_pooled_ones() -> None:
    facts = {
        "position": torch.arange(10),
        "token": torch.tensor([0, 0, 0, 0, 0, 7, 0, 0, 0, 0]),
        "document": torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2]),
        "group": torch.tensor([0, 0, 0, 1, 1, 1, 1, 0, 0, 0]),
    }
    everything = RowFilter(max_norm_ratio=None, first_position=False, token_ids=(7,))
    chosen = Selection((0,), (0,), everything, 4, rules=(PartRule("b", "tokens", 2),))
    made = rows_of(chosen, {}, {}, facts, rules=PartRules.of(chosen, ("a", "b")))
    assert made.row.tolist() == [0, 0, 0, 1, 2, -1, 3, -1, 4, 4]  # token 7 is excluded
    assert made.times is not None
    assert made.times.tolist() == [1, 2, 2, 2, 1]


@pytest.mark.parametrize("pool", [1, 4])
@pytest.mark.parametrize("seed", [None, 0])
def test_a_stream_has_the_last_tokens_of_a_part_and_repeats_them(
    tmp_path: Path, pool: int, seed: int | None
) -> None:
    corpus = corpus_of(document_tokens=3)
    store = make_store(tmp_path, corpus)
    chosen = Selection(
        (2,), (3,), STANDARD, pool, rules=(PartRule("odd", "last_tokens", 2), PartRule("even"))
    )
    batches = [*stream_of(store, selection=chosen, seed=seed, chunk_rows=24).batches()]
    rows = Counter(row for batch in batches for row in key(batch))
    plain = Selection((2,), (3,), STANDARD, pool, ("even",))
    wanted = Counter(
        row for b in stream_of(store, selection=plain, chunk_rows=24).batches() for row in key(b)
    )
    train = corpus.splits["train"]
    tokens, documents = (torch.from_numpy(part.copy()).flatten() for part in (train.tokens, train.documents))
    last_tokens = 0
    for at in range(len(tokens) - 1):
        # shards are of 64 tokens and chunks of 24 of them
        last_of_chunk = (at % 64 + 1) % 24 == 0 or at % 64 == 63
        if documents[at] % 2 == 0 or documents[at + 1] == documents[at] or last_of_chunk:
            continue
        first = at
        while first % 8 and documents[first - 1] == documents[at]:
            first -= 1
        if first % 8 == 0:  # a sequence's first: the document may have begun before
            continue
        if tokens[at] == MASSIVE_TOKEN:
            continue
        last_tokens += 1
        place = torch.tensor(at % 8)
        row = torch.cat(
            [
                PlantedModel(6).state(tokens[at], place, 2),
                PlantedModel(10, seed=1).state(tokens[at], place, 3),
                documents[at, None],
            ]
        )
        wanted[tuple(row.tolist())] += 2
    assert last_tokens > 2
    assert rows == wanted


@pytest.mark.parametrize(
    "parts",
    [{"rules": (PartRule("none", "last_tokens"),)}, {"parts": ("even", "none")}],
    ids=["rules", "parts"],
)
def test_a_part_that_is_missing_is_named(store: ActivationStore, parts: dict[str, Any]) -> None:
    with pytest.raises(StoreForeign, match=r"corpus\.sources\.none"):
        stream_of(store, selection=Selection((2,), (3,), STANDARD, **parts))


@pytest.mark.parametrize("part", ["even", "odd"])
def test_rows_of_one_part_are_those_of_its_documents(store: ActivationStore, part: str) -> None:
    whole, one = Selection((2,), (3,), STANDARD), Selection((2,), (3,), STANDARD, 1, (part,))
    rows = {
        s: torch.cat([b["target"] for b in stream_of(store, selection=s).batches()]) for s in (whole, one)
    }
    groups = torch.cat([b["group"] for b in stream_of(store, selection=whole).batches()])
    wanted = rows[whole][groups == ("even", "odd").index(part)]
    assert sorted(map(tuple, rows[one].tolist())) == sorted(map(tuple, wanted.tolist()))
    # tokens of another part are not counted as excluded
    excluded = {s: sum(chunks_of(store, "train", s, 5).excluded.values()) for s in (whole, one)}
    tokens = CORPUS.splits["train"].groups
    of_part = int((tokens == ("even", "odd").index(part)).sum())
    assert len(rows[one]) + excluded[one] == of_part
    assert len(rows[whole]) + excluded[whole] == tokens.size


def test_all_parts_named_are_the_whole_corpus(store: ActivationStore) -> None:
    named = stream_of(store, selection=Selection((2,), (3,), STANDARD, 2, ("odd", "even")))
    whole = stream_of(store, selection=Selection((2,), (3,), STANDARD, 2))
    assert same([*named.batches()], [*whole.batches()])


def test_several_layers_lie_side_by_side_in_their_order(store: ActivationStore) -> None:
    both = stream_of(store, selection=Selection((2, 1), (3,), STANDARD), seed=3)
    alone = [stream_of(store, selection=Selection((layer,), (3,), STANDARD), seed=3) for layer in (2, 1)]
    for stacked, first, second in zip(both.batches(), *(s.batches() for s in alone), strict=True):
        assert torch.equal(stacked["source"], torch.cat([first["source"], second["source"]], dim=1))
        assert torch.equal(stacked["target"], first["target"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_layers": ()}, r"layers\.source"),
        ({"target_layers": (1, 1)}, r"layers\.target"),
        ({"pool": 0}, "pool=0"),
    ],
)
def test_invalid_selections(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        Selection(**{"source_layers": (1,), "target_layers": (3,), "filter": STANDARD, **changes})


def test_invalid_rules() -> None:
    with pytest.raises(InvalidValue, match="repeat=0"):
        PartRule("odd", repeat=0)
    with pytest.raises(InvalidValue, match="rows=words"):
        PartRule("odd", "words")  # type: ignore[arg-type]
