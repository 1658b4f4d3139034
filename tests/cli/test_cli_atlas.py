"""`lrt atlas` on a pair that is small enough for an atlas from a store beside it."""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from running import Ran, Workshop, run_main
from torch import Tensor, tensor

import lrt.pipeline.grid_atlas as module
from lrt.activations import PairedRows, paired_rows
from lrt.cli.atlas import main
from lrt.cli.tracking import Tracking
from lrt.config import ConfigError, read_section
from lrt.mapping import atlas_bytes
from lrt.models import LanguageModel
from lrt.pipeline.grid_atlas import AtlasSettings, spread

SMALL = ("recording.batch_tokens=1024", "corpus.tokens.validation=2048", "corpus.tokens.test=2048")
THIN = ("atlas.source=[1]", "atlas.target=2")


def run_atlas(workshop: Workshop, *more: str, **how: str) -> Ran:
    return run_main(main, "atlas", *workshop.settings(*SMALL, *more, **how))


def results(workshop: Workshop) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workshop.report / "atlas.json").read_text())
    return content


def sums(workshop: Workshop) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in workshop.artifacts.glob("atlas/*.safetensors")}


def passes(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Records the sequences of each batch; the pass fails when it asks for a batch more than `stop_after`."""
    batches: list[int] = []

    def watched(*models: Any, **settings: Any) -> Iterator[PairedRows]:
        for rows in paired_rows(*models, **settings):
            if stop_after is not None and len(batches) == stop_after:
                raise RuntimeError("killed")
            batches.append(rows.sequences)
            yield rows

    monkeypatch.setattr(module, "paired_rows", watched)
    return batches


@pytest.mark.slow
def test_it_equals_the_atlas_of_a_store(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Any] = {}
    run = SimpleNamespace(log=logged.update)
    monkeypatch.setattr(Tracking, "wandb", lambda _, log_to: log_to(run))
    ran = run_atlas(workshop)
    monkeypatch.undo()
    assert ran.code == 0, ran.output
    for step in ("[1/4]", "[2/4]", "[3/4]", "[4/4]"):
        assert step in ran.output
    assert "12 pairs" in ran.line
    assert workshop.files("activations") == {}
    assert set(logged) == {"atlas/fvu", "atlas/cka", "atlas/rank", "atlas/along"}
    page = (workshop.report / "atlas.html").read_text()
    assert "checkpoint_every: 1024" in page  # the resolved settings
    assert "http://" not in page.replace("http://www.w3.org", "")

    everything = (
        *SMALL,
        "recording.source=all",
        "recording.target=all",
        "analysis.atlas=true",
        "evaluate=true",
        "evaluation.untrained_draws=0",
        "evaluation.resampled_draws=0",
        "evaluation.behaviours=[bravery]",
        "fit=closed_form",
    )
    ran = workshop.train(*everything)
    assert ran.code == 0, ran.output
    of_a_store = json.loads((workshop.report / "results.json").read_text())["atlas"]
    cells = results(workshop)["atlas"]
    assert len(cells) == len(of_a_store) == 3 * 4
    for mine, theirs in zip(cells, of_a_store, strict=True):
        for key in ("source_layer", "target_layer", "rank"):
            assert mine[key] == theirs[key], key
        for key in ("fvu", "cka", "error_along", "cosine"):
            assert mine[key] == pytest.approx(theirs[key], abs=1e-6), key
    assert set(cells[0]["error_along"]) == {"french", "bravery"}


@pytest.fixture(scope="module")
def finished(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One pair of layers, not interrupted. Not to be written to."""
    workshop = Workshop(pair_folder, tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        batches = passes(patch)
        ran = run_atlas(workshop, *THIN)
    assert ran.code == 0, ran.output
    assert batches == [8, 16, 24, 32, 40, 48, 56, 64, 8, 16, 8, 16]
    assert results(workshop)["grid"] == {"source": [1], "target": [0, 3]}
    return workshop


@pytest.mark.slow
def test_killed_and_run_again_it_ends_with_the_same_bits(
    workshop: Workshop, finished: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = passes(monkeypatch, stop_after=5)
    killed = run_atlas(workshop, *THIN, "atlas.checkpoint_every=16")
    assert killed.code != 0
    assert "killed" in killed.output
    assert not (workshop.report / "atlas.json").is_file()
    assert sums(workshop) == {}
    assert cut[-1] == 40

    rest = passes(monkeypatch)
    # how often sums are written does not determine them
    ran = run_atlas(workshop, *THIN, "atlas.checkpoint_every=1")
    assert ran.code == 0, ran.output
    assert rest == [40, 48, 56, 64, 8, 16, 8, 16]  # from the last sums that were written, at 32
    assert sums(workshop) == sums(finished)
    assert results(workshop)["atlas"] == results(finished)["atlas"]


@pytest.mark.slow
def test_a_finished_atlas_is_reused_and_a_damaged_one_named(
    workshop: Workshop, finished: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.artifacts, workshop.artifacts)
    made, first = workshop.files("atlas"), results(finished)
    batches = passes(monkeypatch)
    # a lower limit does not refuse what is there
    assert run_atlas(workshop, *THIN, "atlas.memory_gb=0.0001").code == 0
    assert (batches, workshop.files("atlas")) == ([], made)
    assert results(workshop)["atlas"] == first["atlas"]
    # maps without a bias are other cells of the same sums
    assert run_atlas(workshop, *THIN, "map.bias=false").code == 0
    assert batches == []
    assert results(workshop)["atlas"] != first["atlas"]
    assert results(workshop)["provenance"]["fingerprints"] == first["provenance"]["fingerprints"]
    for file in workshop.artifacts.glob("atlas/cells-*.json"):
        file.unlink()
    damaged = workshop.one("atlas/train-*.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:100])
    ran = run_atlas(workshop, *THIN)
    assert ran.code == 1
    assert "Traceback" not in ran.output
    assert str(damaged) in ran.output.replace("\n", "")


@pytest.mark.slow
def test_states_that_are_not_finite_are_counted_to_the_end_of_a_killed_pass(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer 1 of the source is infinite at position 3 of every sequence, layer 3 of the target at two."""
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
    assert "recording.non_finite=exclude" in refused.line

    exclude = (*THIN, "recording.non_finite=exclude", "atlas.checkpoint_every=16")
    passes(monkeypatch, stop_after=5)
    assert run_atlas(workshop, *exclude).code != 0
    rest = passes(monkeypatch)
    ran = run_atlas(workshop, *exclude)
    assert ran.code == 0, ran.output
    assert rest == [40, 48, 56, 64, 8, 16, 8, 16]
    sequences = {"train": 64, "validation": 16, "test": 16}
    counted = {split: {"source.1": n, "target.3": 2 * n} for split, n in sequences.items()}
    assert results(workshop)["non_finite"] == counted
    assert "train: 64 tokens of source layer 1" in ran.line
    # reused, with no pass
    assert run_atlas(workshop, *exclude).code == 0
    assert len(rest) == 8
    assert results(workshop)["non_finite"] == counted


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("atlas.source=0", "atlas.source: 0"),
        ("atlas.target=-2", "atlas.target: -2"),
        ("atlas.source=some", "atlas.source: 'some'"),
        ("atlas.source=0.5", "atlas.source: 0.5"),
        ("atlas.source=true", "atlas.source: True"),
        ("atlas.source=null", "atlas.source: None"),
        ("atlas.source=[]", "atlas.source: []"),
        ("atlas.source=[first]", "atlas.source: ['first']"),
        ("atlas.memory_gb=0", "atlas.memory_gb=0.0"),
        ("atlas.checkpoint_every=0", "atlas.checkpoint_every=0"),
        ("atlas.layers=3", "atlas.layers: "),
    ],
)
def test_a_wrong_setting_is_named(override: str, named: str) -> None:
    path, value = override.split("=")
    section = {"source": "all", "target": "all", "memory_gb": 1.0, "checkpoint_every": 1}
    config = OmegaConf.create({"atlas": section})
    OmegaConf.update(config, path, yaml.safe_load(value))
    with pytest.raises(ConfigError) as error:
        read_section(config, "atlas", AtlasSettings)
    assert named in str(error.value)


def refused(workshop: Workshop, *overrides: str) -> str:
    """The message, on one line, of a run that a user can fix and that did nothing costly."""
    ran = run_atlas(workshop, *overrides)
    assert ran.code == 1, ran.output
    assert "Traceback" not in ran.output
    assert [workshop.files(kind) for kind in ("atlas", "states", "activations")] == [{}, {}, {}]
    return ran.line


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("atlas.source=4", "atlas.source=4"),
        ("atlas.target=[1,4]", "atlas.target=4"),
        ("atlas.target=[0.3,1]", "atlas.target=[0.3, 1]"),
    ],
)
def test_layers_that_the_models_lack_are_named(workshop: Workshop, override: str, named: str) -> None:
    assert named in refused(workshop, override)


@pytest.mark.slow
def test_a_grid_beyond_the_memory_names_the_settings_that_thin_it(workshop: Workshop) -> None:
    # three splits, of one the excluded documents and all; 1024 tokens in float32, as states, rows and chunk
    sums_of = 5 * atlas_bytes(range(3), 32, range(4), 48, 1)
    need = (sums_of + (3 * 32 + 4 * 48) * 1024 * 12) / 1e9
    message = refused(workshop, f"atlas.memory_gb={0.99 * need}")
    assert f"{need:.3g} GB" in message
    assert "atlas.source=8 atlas.target=8" in message


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_reported(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert "paths.artifacts" in refused(workshop)


def model_of(depth: int) -> Any:
    model = SimpleNamespace(depth=depth, spec=SimpleNamespace(name="toy"))
    model.resolve_layer = lambda layer, setting: LanguageModel.resolve_layer(model, layer, setting)  # type: ignore[arg-type]
    return model


@given(st.integers(1, 90).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_layers_are_evenly_spread(drawn: tuple[int, int]) -> None:
    depth, wanted = drawn
    layers = spread(wanted, model_of(depth), "atlas.source")
    assert len(layers) == wanted
    steps = {b - a for a, b in itertools.pairwise(layers)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)
    if wanted > 1:
        assert (layers[0], layers[-1]) == (0, depth - 1)
    assert layers == spread("all", model_of(depth), "atlas.source") or wanted < depth


def test_layers_that_are_named() -> None:
    assert spread((0.5, 3, 0), model_of(24), "atlas.source") == (0, 3, 12)
    assert spread(1, model_of(24), "atlas.source") == (12,)
    assert spread(8, model_of(24), "atlas.source") == (0, 3, 7, 10, 13, 16, 20, 23)
