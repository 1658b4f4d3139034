from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_states import PlantedModel, bytes_of, corpus_of, make_store, recording_of

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    RecordingWorker,
    RowFilter,
    Selection,
    StoreCorrupt,
    StoreForeign,
    record,
    record_share,
)
from lrt.activations.quantised import MASSIVE, Quantised
from lrt.mapping import Moments, ridge_path


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 6),
    massive=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 10**6),
    cut=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_an_entry_is_off_by_half_a_step_and_a_massive_row_by_nothing(
    rows: int, width: int, massive: int, dtype: torch.dtype, seed: int, cut: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, width, generator=generator)
    long = torch.randperm(rows, generator=generator)[: min(massive, rows // 3)]
    states[long] *= 1000 * MASSIVE
    states[:, 0] = 0  # a dimension that nothing visits
    states = states.to(dtype)
    norms = states.float().norm(dim=1)
    made = Quantised.of(states, norms)
    start, stop = sorted(min(edge, rows) for edge in cut)
    back = made.rows(start, stop)
    assert back.dtype == dtype
    kept = ~torch.isin(torch.arange(start, stop), made.where)
    assert torch.equal(back[~kept], states[start:stop][~kept])
    off = (back.float() - states[start:stop].float()).abs()[kept]
    rounding = states.float().abs().amax() * 0 + (2**-8 if dtype == torch.bfloat16 else 1e-6)
    half = made.step / 2 * norms[start:stop][kept].clamp(min=1e-30)[:, None]
    assert (off <= half + rounding * states[start:stop][kept].float().abs() + 1e-6 * half + 1e-7).all()


def test_the_scale_does_not_reach_massive_rows() -> None:
    states = torch.randn(1000, 8)
    states[17] = 5000.0
    made = Quantised.of(states, states.norm(dim=1))
    assert made.where.tolist() == [17]
    assert made.step.max() <= 1 / 127
    # were it kept among the others, all of them would be zero or one step
    assert (made.rows(0, 17) - states[:17]).abs().max() < 0.05


def test_short_rows_have_as_fine_steps_as_long_ones() -> None:
    states = torch.randn(400, 8)
    states[::2] *= 10.0
    made = Quantised.of(states, states.norm(dim=1))
    assert not len(made.where)
    off = (made.rows(0, 400) - states).norm(dim=1) / states.norm(dim=1)
    assert off[1::2].mean() < 1.2 * off[::2].mean() < 0.02


def test_excluded_tokens_do_not_change_the_steps() -> None:
    states = torch.randn(50, 4)
    norms = states.norm(dim=1)
    norms[3] = torch.inf
    states[3] = 0
    made = Quantised.of(states, norms)
    assert made.where.tolist() == []
    assert torch.equal(made.rows(3, 4), torch.zeros(1, 4))


def test_a_store_in_bytes_reads_as_the_native_one_within_a_step(tmp_path: Path) -> None:
    corpus = corpus_of(train=150)
    native = make_store(tmp_path / "native", corpus)
    small = make_store(tmp_path / "int8", corpus, states="int8")
    small.verify(full=True)
    assert small.manifest.median_norms == native.manifest.median_norms
    assert small.plan.bytes_per_row < 0.8 * native.plan.bytes_per_row  # six dimensions, and five facts
    for one, other in zip(
        native.stream("train", ["source.2", "norm.source.2", "token"], 100),
        small.stream("train", ["source.2", "norm.source.2", "token"], 100),
        strict=True,
    ):
        for fact in ("norm.source.2", "token"):
            assert torch.equal(one[fact], other[fact])
        massive = one["norm.source.2"] > 50 * native.manifest.median_norms["source.2"]
        assert massive.any()
        assert torch.equal(one["source.2"][massive], other["source.2"][massive])
        off = (one["source.2"] - other["source.2"]).abs()
        assert 0 < off.max() < 0.06


def test_a_map_of_it_is_as_good(tmp_path: Path) -> None:
    corpus = corpus_of(train=300, validation=60)
    fvus = {}
    for states in ("native", "int8"):
        # wide enough that the map has something to lose
        settings = {"source": PlantedModel(24), "target": PlantedModel(32, seed=1), "states": states}
        settings |= {"rows_per_shard": 4096, "batch_tokens": 4096}
        store = make_store(tmp_path / states, corpus, **settings)
        data = ActivationDataModule(store.folder, Selection((1,), (3,), RowFilter()), chunk_rows=64)
        moments = {}
        for split in ("train", "validation"):
            moments[split] = Moments(24, 32)
            for batch in data.iterate(split):  # type: ignore[arg-type]
                moments[split].update(batch["source"], batch["target"])
        fvus[states] = ridge_path(moments["train"], moments["validation"]).fvu_validation
    assert fvus["int8"] != fvus["native"]
    assert fvus["int8"] == pytest.approx(fvus["native"], abs=5e-4)


def test_shares_and_damage_of_a_quantised_store(tmp_path: Path) -> None:
    whole = make_store(tmp_path / "whole", states="int8")
    for number in range(2):
        record_share(tmp_path / "shared", RecordingWorker(number, 2), **recording_of(states="int8"))
    record(tmp_path / "shared", **recording_of(states="int8"), missing="refuse")
    assert bytes_of(tmp_path / "shared") == bytes_of(whole.folder)
    shard = whole.folder / "train-00001.safetensors"
    content = shard.read_bytes()
    assert b'"source.2.massive"' in content
    shard.write_bytes(content.replace(b'"source.2.massive"', b'"source.2.massivE"'))
    with pytest.raises(StoreCorrupt, match=r"train-00001\.safetensors.*source\.2\.massi"):
        ActivationStore.open(whole.folder)


def test_a_native_store_is_another(store: ActivationStore) -> None:
    with pytest.raises(StoreForeign, match="states='native'"):
        make_store(store.folder, states="int8")


def test_quantised_states_have_no_view(tmp_path: Path) -> None:
    store = make_store(tmp_path, states="int8")
    with pytest.raises(TypeError, match=r"source\.2"):
        store.reader(store.shards("test")[0]).whole("source.2")
