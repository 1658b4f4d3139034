"""Stage 2: states in a store, recorded once, and the same rows on the fly."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from stages import Stages

from lrt.activations import ActivationStore, RecordingWorker, StoreCorrupt, StoreForeign, StoreMissing
from lrt.config import Batches, ConfigError
from lrt.corpora import SPLITS
from lrt.pipeline.states import RecordedStates, StatesOnTheFly

NEVER = AssertionError("run again")


def recorded(stages: Stages) -> RecordedStates:
    assert isinstance(stages.states, RecordedStates)
    return stages.states


def test_states_are_recorded_once_and_read_without_a_model(shared: Stages) -> None:
    shared.states.record()  # leaves a note of the store's check
    before = shared.files("activations")
    again = recorded(shared.but())
    with mock.patch("lrt.pipeline.states.record", side_effect=NEVER):
        store = again.record()
    assert shared.files("activations") == before
    assert store.plan.source.layers == (0, 1, 2)
    assert store.plan.target.layers == (0, 1, 2, 3)
    assert store.rows("train") == shared.corpus.tokens.train
    assert set(again.median_norms) == {*(f"source.{n}" for n in range(3)), *(f"target.{n}" for n in range(4))}


@pytest.mark.parametrize("verify", [True, False])
def test_a_damaged_shard_is_noticed_where_that_is_wanted(copied: Stages, verify: bool) -> None:
    shard = next(path for path in copied.files("activations") if path.name.startswith("train"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(bytes(content))
    states = recorded(copied.but(recording__verify=verify))
    if verify:
        with pytest.raises(StoreCorrupt, match=shard.name):
            states.record()
    else:
        states.record()


def test_a_store_of_other_settings_and_a_corpus_that_is_not_the_one_of_its_name(copied: Stages) -> None:
    other = recorded(copied.but(recording__batch_tokens=512))
    other.folder.parent.mkdir(parents=True, exist_ok=True)
    recorded(copied).folder.rename(other.folder)
    with pytest.raises(StoreForeign, match=other.fingerprint):
        other.record()
    other.folder.rename(recorded(copied).folder)
    # the digest of the corpus in the cache is not that of the text there is now
    assert recorded(copied).record()
    stages = copied.but(suite=copied.suite[:1])
    with (
        mock.patch.object(type(stages.text), "digest", "of other text"),
        pytest.raises(StoreForeign, match="corpora"),
    ):
        recorded(stages).record()


def test_shares_make_the_store_of_one_process(empty: Stages, tmp_path: Path) -> None:
    alone = recorded(empty.but(folder=tmp_path / "alone")).record()
    states = recorded(empty)
    states.record_share(RecordingWorker(0, 2))
    with pytest.raises(StoreMissing):
        recorded(empty.but()).merge_shares()
    place = recorded(empty.but()).record_share(RecordingWorker(1, 2))
    assert place.is_dir()
    store = recorded(empty.but()).merge_shares()
    assert [shard.sha256 for shard in store.manifest.shards] == [
        shard.sha256 for shard in alone.manifest.shards
    ]
    assert ActivationStore.open(states.folder).plan.identity == alone.plan.identity


def test_on_the_fly_rows_are_those_of_a_store(shared: Stages) -> None:
    flying = shared.but(recording__states="none")
    assert isinstance(flying.states, StatesOnTheFly)
    assert flying.states.record() is None
    # all training tokens are among those that the medians are of
    assert flying.states.median_norms == pytest.approx(dict(shared.states.median_norms), rel=1e-5)
    selection = shared.rows.of(shared.plan.candidates).selection
    passed, stored = (stages.states.in_order(selection) for stages in (flying, shared))
    for split in SPLITS:
        one, other = (list(rows.iterate(split, batch_rows=100_000)) for rows in (passed, stored))
        for name in ("source", "target"):
            mine, theirs = (torch.cat([batch[name] for batch in rows]) for rows in (one, other))
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    assert passed.rows == stored.rows
    assert passed.rows_excluded == stored.rows_excluded
    with pytest.raises(ConfigError, match=r"recording\.states"):
        flying.states.batches(selection, Batches(64, 0, 64), 0)


def test_counts_and_medians_of_a_pass_are_cached(shared: Stages) -> None:
    flying = shared.but(recording__states="none")
    selection = shared.rows.of(shared.plan.candidates).selection
    rows = flying.states.in_order(selection)
    for split in SPLITS:
        _ = list(rows.iterate(split, batch_rows=100_000))
    before = flying.files("passes")
    again = shared.but(recording__states="none").states
    with mock.patch("lrt.pipeline.states.median_norms", side_effect=NEVER):
        assert again.median_norms == flying.states.median_norms
    assert again.in_order(selection).rows == rows.rows
    assert flying.files("passes") == before
