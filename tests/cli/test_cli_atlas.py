"""The command as its user runs it, on a pair small enough for the store's atlas beside it."""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lrt.runtime.atlas as module
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lrt.runtime import Pipeline, Session
from lrt.runtime.analyses.layers import Atlas as StoreAtlas
from lrt.runtime.atlas import AtlasSettings, grid_layers, main
from lrt.runtime.schema import ConfigError, read_beside
from omegaconf import OmegaConf
from running import Ran, Workshop, _undone, composed, run_main
from torch import Tensor, tensor

from lrt.activations import PairedRows, paired_rows
from lrt.mapping import atlas_bytes
from lrt.models import LanguageModel
from lrt.storage.durable import one_writer

pytestmark = pytest.mark.xdist_group("micro")

SMALL = ("recording.batch_tokens=1024", "corpus.tokens.validation=2048", "corpus.tokens.test=2048")


def run_atlas(workshop: Workshop, *more: str, **how: str) -> Ran:
    """`python -m lrt.runtime.atlas`, without the start of a process."""
    return run_main(main, "atlas", *workshop.settings(*SMALL, *more, **how))


def results(workshop: Workshop) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workshop.report / "atlas.json").read_text())
    return found


def sums(workshop: Workshop) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in workshop.artifacts.glob("atlas/*/*") if file.is_file()}


def passes(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Records the blocks of each batch; the pass dies when it asks for a batch more than `stop_after`."""
    seen: list[int] = []

    def watched(*models: Any, **settings: Any) -> Iterator[PairedRows]:
        for rows in paired_rows(*models, **settings):
            if stop_after is not None and len(seen) == stop_after:
                raise RuntimeError("killed")
            seen.append(rows.blocks)
            yield rows

    monkeypatch.setattr(module, "paired_rows", watched)
    return seen


def test_it_is_the_atlas_of_a_store(workshop: Workshop) -> None:
    settings = [*SMALL, "evaluation.untrained_source=false"]
    ran = run_atlas(workshop, *settings)
    assert ran.code == 0, ran.told
    everything = workshop.settings(*settings, "recording.source=all", "recording.target=all")
    with _undone(), Session.of(composed("train", *everything, output=str(workshop.folder)), "train") as open_:
        pipeline = Pipeline(open_.config, open_)
        of_a_store = StoreAtlas(pipeline, pipeline.whole)
        wanted, gathered = of_a_store.make(), of_a_store.rows()
        rows = {split: m.count for split, m in gathered.moments.items() if "/" not in split}
        rows["train"] = gathered.train_moments.count
    found = results(workshop)
    assert found["rows"] == rows
    assert len(found["atlas"]) == len(wanted) == 3 * 4
    for mine, theirs in zip(found["atlas"], wanted, strict=True):
        for key in ("source_layer", "target_layer", "rank"):
            assert mine[key] == theirs[key], key
        for key in ("fvu", "cka", "error_along", "cosine"):
            assert mine[key] == pytest.approx(theirs[key], abs=1e-6), key
    assert set(found["atlas"][0]["error_along"]) == {"french", "bravery"}


def test_what_its_user_sees(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Any] = {}
    monkeypatch.setattr(Session, "_wandb_run", SimpleNamespace(log=logged.update))
    ran = run_atlas(workshop, "atlas.source=2", "atlas.target=[0.0,3]")
    assert ran.code == 0, ran.told
    assert "4 pairs: little blocks 0, 2 of 3 x big blocks 0, 3 of 4" in ran.line
    assert "GB of memory beside the models" in ran.line
    assert "error along" in ran.told
    page = (workshop.report / "atlas.html").read_text()
    assert page.count("<svg") == 4
    assert "4 pairs of blocks." in page
    assert "atlas.source=2" in page  # the command
    assert "checkpoint_every: 1024" in page  # the resolved settings
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert results(workshop)["grid"] == {"source": [0, 2], "target": [0, 3]}
    assert workshop.files("activations") == {}
    assert set(logged) == {"atlas/fvu", "atlas/cka", "atlas/rank", "atlas/along"}


THIN = ("atlas.source=[1]", "atlas.target=2")


@pytest.fixture(scope="module")
def finished(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One pair of layers, not interrupted. Not to be written to."""
    made = Workshop(pair_folder, tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        seen = passes(patch)
        ran = run_atlas(made, *THIN)
    assert ran.code == 0, ran.told
    assert seen == [8, 16, 24, 32, 40, 48, 56, 64, 8, 16, 8, 16]
    return made


def test_killed_and_run_again_it_ends_with_the_same_bits(
    workshop: Workshop, finished: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = passes(monkeypatch, stop_after=5)
    killed = run_atlas(workshop, *THIN, "atlas.checkpoint_every=16")
    assert killed.code == 1
    assert "killed" in killed.told
    assert not (workshop.report / "atlas.json").is_file()
    assert set(sums(workshop)) == {"train.safetensors", "median_norms.json"}
    assert cut[-1] == 40

    rest = passes(monkeypatch)
    # a temp file of the killed process is taken away
    left = workshop.one("atlas/*/train.safetensors").with_name("train.safetensors.tmp-1")
    left.write_bytes(b"half")
    # how often sums are written is no part of what they are
    ran = run_atlas(workshop, *THIN, "atlas.checkpoint_every=1")
    assert ran.code == 0, ran.told
    assert rest == [40, 48, 56, 64, 8, 16, 8, 16]  # from the last sums that were written, at 32
    assert sums(workshop) == sums(finished)
    assert results(workshop)["atlas"] == results(finished)["atlas"]


def test_a_finished_atlas_is_found_again_and_a_damaged_one_told(
    workshop: Workshop, finished: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.artifacts, workshop.artifacts)
    made, first = workshop.files("atlas"), results(finished)
    seen = passes(monkeypatch)
    # a smaller bound is no reason to refuse what is there
    assert run_atlas(workshop, *THIN, "atlas.memory_gb=0.0001").code == 0
    assert (seen, workshop.files("atlas")) == ([], made)
    assert results(workshop)["atlas"] == first["atlas"]
    # maps without a bias are other cells of the same sums
    assert run_atlas(workshop, *THIN, "map.bias=false").code == 0
    assert seen == []
    assert results(workshop)["atlas"] != first["atlas"]
    assert results(workshop)["provenance"]["fingerprints"] == first["provenance"]["fingerprints"]
    # and what cannot be read is named
    for file in workshop.artifacts.glob("atlas/*/cells-*.json"):
        file.unlink()
    damaged = workshop.one("atlas/*/train.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:100])
    ran = run_atlas(workshop, *THIN)
    assert ran.code == 1
    assert f"{damaged} cannot be read" in ran.told.replace("\n", "")
    assert "delete it and run the command again" in ran.line


def test_states_that_are_not_finite_are_counted_to_the_end_of_a_killed_pass(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block 1 of the source is infinite at position 3 of every sequence, block 3 of the target at two."""
    whole = LanguageModel.hidden_states

    def broken(lm: LanguageModel, tokens: Tensor, layers: Sequence[int], *mask: Any) -> dict[int, Tensor]:
        states = whole(lm, tokens, layers, *mask)
        if not mask:  # prompts are sound
            for layer, positions in ((1, [3]),) if lm.depth == 3 else ((3, [3, 5]),):
                if layer in states:
                    states[layer] = states[layer].index_fill(1, tensor(positions), torch.inf)
        return states

    monkeypatch.setattr(LanguageModel, "hidden_states", broken)
    refused = run_atlas(workshop, *THIN)
    assert refused.code == 1
    assert "source model little gives non-finite hidden states at layer 1: 8 of 1024 tokens" in refused.line
    assert "recording.non_finite=exclude" in refused.line

    leave = (*THIN, "recording.non_finite=exclude", "atlas.checkpoint_every=16")
    passes(monkeypatch, stop_after=5)
    assert run_atlas(workshop, *leave).code == 1
    rest = passes(monkeypatch)
    ran = run_atlas(workshop, *leave)
    assert ran.code == 0, ran.told
    assert rest == [40, 48, 56, 64, 8, 16, 8, 16]
    blocks = {"train": 64, "validation": 16, "test": 16}
    counted = {split: {"source.1": n, "target.3": 2 * n} for split, n in blocks.items()}
    assert results(workshop)["non_finite"] == counted
    assert "train: 64 tokens of source layer 1 are non-finite and leave every fit" in ran.line
    assert "test: 32 tokens of target layer 3 are non-finite" in ran.line
    assert "Left out as infinite or undefined" in (workshop.report / "atlas.html").read_text()
    # found again, with no pass
    assert run_atlas(workshop, *leave).code == 0
    assert len(rest) == 8
    assert results(workshop)["non_finite"] == counted


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("atlas.source=0", "atlas.source: 0 names no blocks: give all, a number of evenly spread blocks"),
        ("atlas.target=-2", "atlas.target: -2 names no blocks"),
        ("atlas.source=some", "atlas.source: 'some' names no blocks"),
        ("atlas.source=0.5", "atlas.source: 0.5 names no blocks"),
        ("atlas.source=true", "atlas.source: True names no blocks"),
        ("atlas.source=null", "atlas.source: None names no blocks"),
        ("atlas.source=[]", "atlas.source: [] names no blocks"),
        ("atlas.source=[first]", "atlas.source: ['first'] names no blocks"),
        ("atlas.memory_gb=0", "atlas.memory_gb=0.0; it must be above 0"),
        ("atlas.checkpoint_every=0", "atlas.checkpoint_every=0; it must be at least 1"),
        ("atlas.layers=3", "atlas.layers: is not a setting"),
    ],
)
def test_setting_that_the_schema_refuses(override: str, said: str) -> None:
    path, value = override.split("=")
    config = OmegaConf.create({"atlas": asdict(AtlasSettings())})
    OmegaConf.update(config, path, yaml.safe_load(value))
    with pytest.raises(ConfigError) as error:
        read_beside(config, "atlas", AtlasSettings)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("atlas.source=0", "atlas.source: 0 names no blocks"),
        ("atlas.source=4", "atlas.source=4 is more blocks than little has: give 1 to 3, or all"),
        ("atlas.target=[1,4]", "atlas.target=4 is not a layer; big has 4 blocks: allowed are 0 to 3"),
        ("atlas.target=[0.3,1]", "atlas.target=[0.3, 1] names a block twice: blocks [1, 1]"),
        ("pool=0", "span: Input should be greater than or equal to 1, got 0"),
    ],
)
def test_setting_that_cannot_be_run(workshop: Workshop, override: str, said: str) -> None:
    ran = run_atlas(workshop, override)
    assert ran.code == 1, ran.told
    assert "Traceback" not in ran.told
    assert said in ran.line, ran.told
    nothing_costly(workshop)


def nothing_costly(workshop: Workshop) -> None:
    assert [workshop.files(kind) for kind in ("atlas", "states", "activations")] == [{}, {}, {}]


def test_a_grid_beyond_the_memory_says_which_setting_thins_it(workshop: Workshop) -> None:
    # three splits and one more while it is written; 1024 tokens in float32, as states, rows and chunk
    sums_of = 4 * atlas_bytes(range(3), 32, range(4), 48, 1)
    need = (sums_of + (3 * 32 + 4 * 48) * 1024 * 12) / 1e9
    ran = run_atlas(workshop, f"atlas.memory_gb={0.99 * need}")
    assert ran.code == 1
    assert f"needs {need:.3g} GB of memory" in ran.line
    assert "atlas.source=8 atlas.target=8 takes 8 evenly spread blocks of each" in ran.line
    nothing_costly(workshop)


def test_a_disk_that_is_too_small(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    ran = run_atlas(workshop)
    assert ran.code == 1
    assert "0.00 GB" not in ran.line
    assert "GB on disk" in ran.line
    assert "set paths.artifacts to another disk" in ran.line


def test_two_at_once_are_refused(workshop: Workshop, finished: Workshop) -> None:
    shutil.copytree(finished.artifacts, workshop.artifacts)
    workshop.one("atlas/*/cells-*.json").unlink()
    folder = workshop.one("atlas/*")
    with one_writer(folder, "testing", RuntimeError, RuntimeError):
        ran = run_atlas(workshop, *THIN)
    assert ran.code == 1
    assert f"another process is making the atlas in {folder}" in ran.told.replace("\n", "")


def model_of(depth: int) -> Any:
    told = SimpleNamespace(depth=depth, spec=SimpleNamespace(name="toy"))
    told.resolve_layer = lambda layer, setting: LanguageModel.resolve_layer(told, layer, setting)  # type: ignore[arg-type]
    return told


@given(st.integers(1, 90).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_blocks_are_evenly_spread(drawn: tuple[int, int]) -> None:
    depth, wanted = drawn
    layers = grid_layers(wanted, model_of(depth), "atlas.source")
    assert len(layers) == wanted
    steps = {b - a for a, b in itertools.pairwise(layers)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)
    if wanted > 1:
        assert (layers[0], layers[-1]) == (0, depth - 1)
    assert layers == grid_layers("all", model_of(depth), "atlas.source") or wanted < depth


def test_blocks_that_are_named() -> None:
    assert grid_layers((0.5, 3, 0), model_of(24), "atlas.source") == (0, 3, 12)
    assert grid_layers(1, model_of(24), "atlas.source") == (12,)
    assert grid_layers(8, model_of(24), "atlas.source") == (0, 3, 7, 10, 13, 16, 20, 23)


def test_the_shipped_settings_are_the_schemas_and_the_rest_is_train_pys() -> None:
    own = ("pair=own", "pair.source.path=SMALL", "pair.target.path=LARGE")
    settings, rest = read_beside(composed("atlas", *own, output="x"), "atlas", AtlasSettings)
    assert settings == AtlasSettings()
    assert rest == composed("train", *own, output="x")
