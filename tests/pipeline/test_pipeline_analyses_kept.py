"""Analyses are made once each, found by what determines them, and one that fails costs no other."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import lightning as L
import pytest
from lrt.runtime.analyses import Analyses
from lrt.runtime.analyses.features import Features
from lrt.runtime.analyses.layers import RankCurve
from lrt.runtime.map_fit import MapFit
from lrt.runtime.schema import read_config
from running import Workshop, composed
from upstream_files import gemma_scope

from lrt.features import SaeModule
from lrt.mapping import LayerConcat, NotConverged, closed_form, load_map

QUICK = ("fit=closed_form", "evaluation.during_training.behaviours=[]", "evaluate=true")


def results(workshop: Workshop) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workshop.report / "results.json").read_text())
    return found


def kinds(workshop: Workshop) -> dict[str, int]:
    """How many results of each analysis are kept."""
    counted: dict[str, int] = {}
    for file in workshop.files("analysis"):
        name = file.name.rsplit("-", 1)[0]
        counted[name] = counted.get(name, 0) + 1
    return counted


def test_one_that_fails_is_a_note_and_is_tried_again(workshop: Workshop) -> None:
    asked = (*QUICK, "analysis.rank_curve=true", "analysis.atlas=true")
    with mock.patch.object(RankCurve, "make", side_effect=NotConverged("it went in circles")):
        done = workshop.train(*asked)
    assert done.code == 0, done.told
    assert "rank_curve could not be made: it went in circles" in done.line
    found = results(workshop)
    assert found["notes"] == {"rank_curve": "it went in circles"}
    assert "rank_curve" not in found
    assert len(found["atlas"]) == 1
    before = workshop.files("analysis")
    again = workshop.evaluate(*asked[:2], *asked[3:])
    assert again.code == 0, again.told
    found = results(workshop)
    assert "notes" not in found
    assert found["rank_curve"]["ranks"]
    after = workshop.files("analysis")
    assert all(after[file] == made for file, made in before.items())
    assert kinds(workshop) == {"rank_curve": 1, "atlas": 1, "forecast": 2}


def test_a_fault_of_ours_is_not_taken_for_a_finding(workshop: Workshop) -> None:
    with mock.patch.object(RankCurve, "make", side_effect=KeyError("a bug")):
        done = workshop.train(*QUICK, "analysis.rank_curve=true")
    assert done.code == 1
    assert "KeyError: 'a bug'" in done.told


def test_they_are_found_by_what_determines_them(workshop: Workshop) -> None:
    asked = (*QUICK, "analysis.rank_curve=true", "analysis.fidelity_tokens=512")
    assert workshop.train(*asked).code == 0
    one_each = {"rank_curve": 1, "fidelity": 1, "forecast": 2}
    assert kinds(workshop) == one_each
    # thresholds of a warning determine no figure
    done = workshop.train(*asked, "analysis.signal_to_noise=1e6")
    assert done.code == 0, done.told
    assert kinds(workshop) == one_each
    warned = [b["forecast"]["warning"] for b in results(workshop)["behaviours"]]
    assert all("standard errors off zero" in warning for warning in warned)
    # the rank curve is of the rows, the rest of the fitted map too
    assert workshop.train(*asked, "map=low_rank", "map.rank=4").code == 0
    assert kinds(workshop) == {"rank_curve": 1, "fidelity": 2, "forecast": 4}
    with mock.patch.object(RankCurve, "version", 77):
        assert workshop.train(*asked).code == 0
    assert kinds(workshop)["rank_curve"] == 2


def test_a_damaged_one_is_told(workshop: Workshop) -> None:
    asked = (*QUICK, "analysis.rank_curve=true")
    assert workshop.train(*asked).code == 0
    (file,) = (f for f in workshop.files("analysis") if f.name.startswith("rank_curve"))
    file.write_text(file.read_text()[:-4])
    done = workshop.train(*asked)
    assert done.code == 1
    assert f"{file.name} cannot be read" in done.line
    assert "delete it and run the command again" in done.line


@pytest.mark.parametrize(
    ("asked", "fix_hint"),
    [
        ("analysis.atlas=true", "analysis.atlas=false"),
        ("analysis.many_to_one=true", "analysis.many_to_one=false"),
        ("analysis.fidelity_tokens=512", "analysis.stitching_depths=false"),
        ("analysis.rank_curve=true", "analysis.rank_curve=false"),
        ("analysis.sae.features=64", "analysis.sae.features=0"),
    ],
)
def test_more_than_the_memory_is_refused_before_anything_is_recorded(
    workshop: Workshop, asked: str, fix_hint: str
) -> None:
    more = ("recording.source=all", "recording.target=all", "analysis.memory_gb=0.00061")
    more += ("batches.window_rows=1",)  # the map, and what is left of it without a part, take .000603
    done = workshop.train(*QUICK, *more, asked)
    assert done.code == 1
    assert "GB of memory" in done.line
    assert "analysis.memory_gb=0.00061" in done.line
    assert fix_hint in done.line, done.told
    assert not workshop.files("activations")


def test_a_map_alone_may_be_more_than_the_memory(workshop: Workshop) -> None:
    every = ("layers.source=[0,1,2]", "layers.target=[0,1,2,3]", "analysis.memory_gb=0.0001")
    done = workshop.train(*QUICK, *every)
    assert done.code == 1
    assert "the moments of 1 maps of 3 source layers of 32 to 4 target layers of 48 need" in done.line
    assert "evaluation.folds" in done.line
    auto = workshop.train(*QUICK, "layers.source=auto", "layers.target=auto", "analysis.memory_gb=0.0001")
    assert auto.code == 1
    assert "layers.source=auto among 3 source layers of 32 and 4 target layers of 48 needs" in auto.line
    assert "name fewer candidates (recording.source" in auto.line
    assert not workshop.files("activations")


def test_what_is_made_of_the_moments_counts_as_memory(workshop: Workshop) -> None:
    every = ("layers.source=[0,1,2]", "layers.target=[0,1,2,3]")
    wide = workshop.train(*QUICK, *every, "analysis.memory_gb=0.02")
    assert wide.code == 1
    assert "with windows of their rows need" in wide.line
    assert "lower batches.window_rows" in wide.line
    parts = workshop.train(*QUICK, *every, "batches.window_rows=1", "analysis.memory_gb=0.007")
    assert parts.code == 1
    assert "with forecasts that leave out a part of the corpus need" in parts.line
    assert "corpus.sources" in parts.line
    assert not workshop.files("activations")


def test_the_papers_autoencoders_fit_in_the_memory_that_their_experiment_asks_for() -> None:
    given = ("experiment=paper_sae", "analysis.sae.source=A", "analysis.sae.target=B")
    config = read_config(composed("train", *given, "suite.french=[F]", "suite.english=[E]"))
    stacks = LayerConcat((20,), 2304), LayerConcat((20,), 3584)  # Gemma-2 2b and 9b
    run: Any = SimpleNamespace(config=config, stacks=stacks, keeps_states=True)
    whole: Any = SimpleNamespace(stacks=stacks)
    features = Features(run, whole)
    features.__dict__["_published"] = {
        side: SimpleNamespace(features=16_384) for side in ("source", "target")
    }
    held = Analyses(run, whole, 1).held
    assert 0.9 * config.analysis.memory_gb < (held + features.memory) / 1e9 < config.analysis.memory_gb


def test_damage_to_what_is_kept_is_the_users_to_mend(workshop: Workshop) -> None:
    asked = (*QUICK, "analysis.sae.features=64")
    assert workshop.train(*asked).code == 0
    for file in workshop.files("analysis"):
        if file.name.startswith("sae-"):
            file.unlink()
    weights = next(file for file in workshop.files("saes") if file.suffix == ".safetensors")
    weights.write_bytes(weights.read_bytes()[:-8])
    done = workshop.train(*asked)
    assert done.code == 1
    assert "delete the folder" in done.line
    choice = next(file for file in workshop.files("choices") if "-target-" in file.name)
    choice.write_text(choice.read_text()[:-20])
    done = workshop.train(*asked)
    assert done.code == 1
    assert choice.name in done.line


def test_what_an_autoencoder_cost_is_kept_where_the_run_stops_behind_it(workshop: Workshop) -> None:
    asked = (*QUICK, "analysis.sae.features=64")
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch("lrt.runtime.analyses.features.save_autoencoder", side_effect=full):
        assert "No space left" in workshop.train(*asked).line
    again = AssertionError("trained again")
    with mock.patch.object(SaeModule, "on_train_batch_start", side_effect=again) as step:
        workshop.train(*asked)  # the target's is another one
    assert step.call_count == 1
    assert len([f for f in workshop.files("saes") if f.name == "sae.json"]) == 1
    assert workshop.train(*asked).code == 0
    told = results(workshop)["sae"]
    assert told["steering"]
    for file in workshop.files("analysis"):
        if file.name.startswith("sae-"):
            file.unlink()
    with mock.patch("lrt.evaluation.study.measure", side_effect=AssertionError("measured again")):
        done = workshop.train(*asked)
    assert done.code == 0, done.told
    assert results(workshop)["sae"] == told


def test_a_part_without_rows_costs_no_forecast(workshop: Workshop) -> None:
    done = workshop.train(*QUICK, "corpus.sources.questions.weight=0.0001")
    assert done.code == 0, done.told
    assert all(b["forecast"]["residual_on_prompts"] > 0 for b in results(workshop)["behaviours"])


def test_a_forecast_that_cannot_be_had_is_told(workshop: Workshop) -> None:
    with mock.patch("lrt.runtime.analyses.forecast.residual_on", side_effect=ValueError("no spread")):
        done = workshop.train(*QUICK)
    assert done.code == 0, done.told
    assert all(b["forecast"]["warning"] == "no forecast: no spread" for b in results(workshop)["behaviours"])
    assert "no forecast: no spread" in (workshop.report / "index.html").read_text()


def test_autoencoders_are_trained_by_one_process_after_a_distributed_fit(workshop: Workshop) -> None:
    seen: list[tuple[int, str]] = []
    fit = L.Trainer.fit

    def watched(self: L.Trainer, *args: Any, **options: Any) -> None:
        seen.append((self.num_devices, type(self.strategy).__name__))
        fit(self, *args, **options)

    with mock.patch.object(L.Trainer, "fit", watched):
        done = workshop.train(*QUICK, "trainer=ddp_cpu", "analysis.sae.features=64")
    assert done.code == 0, done.told
    assert seen == [(1, "SingleDeviceStrategy")] * 2


def test_a_kind_of_map_that_does_not_converge_leaves_the_others(workshop: Workshop) -> None:
    def circling(spec: Any, *moments: Any, **how: Any) -> Any:
        if spec.kind == "orthogonal_penalty":
            raise NotConverged("LBFGS went in circles")
        return closed_form(spec, *moments, **how)

    with mock.patch("lrt.runtime.analyses.fidelity.closed_form", circling):
        done = workshop.train(*QUICK, "analysis.fidelity_tokens=512", "map.bias=false")
    assert done.code == 0, done.told
    found = results(workshop)["fidelity"]
    assert found["notes"] == {"orthogonal penalty 0.1": "LBFGS went in circles"}
    assert "LBFGS went in circles" in (workshop.report / "index.html").read_text()
    rows = {row["name"]: row for row in found["rows"]}
    assert "Procrustes with scale, exact" in rows["orthogonal"]["note"]
    assert "weight chosen on the validation rows" in rows["full"]["note"]
    # the run's map and every kind are through the origin, so pairs that say nothing are worse than the mean
    assert rows["shuffled pairs"]["fvu"] > rows["mean only"]["fvu"] - 1e-9


def test_the_choice_of_layer_and_strength_is_made_once_for_all_maps(workshop: Workshop) -> None:
    assert workshop.train(*QUICK).code == 0
    made = workshop.files("choices")
    assert len(made) == 4  # two behaviours, two sides
    with mock.patch("lrt.runtime.vectors.choose_layer", side_effect=AssertionError("steered again")):
        done = workshop.train(*QUICK, "map=low_rank", "map.rank=4")
    assert done.code == 0, done.told
    assert workshop.files("choices") == made
    # another grid is another choice
    assert workshop.train(*QUICK, "evaluation.grid.strengths=[-1.0,0.0,1.0]").code == 0
    assert len(workshop.files("choices")) == 8


def test_one_fold_of_documents_has_no_jackknife(workshop: Workshop) -> None:
    first = property(lambda self: [m for name, m in self.moments.items() if name == "train/0"])
    with mock.patch.object(MapFit, "folds", first):
        done = workshop.train(*QUICK, "evaluation.resampled_draws=0")
    assert done.code == 0, done.told
    for behaviour in results(workshop)["behaviours"]:
        forecast = behaviour["forecast"]
        assert forecast["signal_to_noise"] is None
        assert forecast["residual_on_prompts"] > 0


def test_a_card_says_how_its_map_was_solved(workshop: Workshop) -> None:
    assert workshop.train("fit=closed_form", "evaluation.during_training.behaviours=[]").code == 0
    _, card = load_map(workshop.one("maps/*"))
    assert "ridge regression, exact" in card["solved"]["note"]
    metrics = card["metrics"]
    assert card["solved"]["ridge_weight"] == metrics["ridge_weight"]
    assert metrics["gcv_weight"] > 0
    # on test documents what held-out documents chose is hardly beaten
    assert metrics["gcv_fvu"] > 0.99 * metrics["optimum_fvu"]


def test_autoencoders_are_told_apart_by_what_trains_them(workshop: Workshop) -> None:
    asked = (*QUICK, "analysis.sae.features=64")
    assert workshop.train(*asked).code == 0
    assert len(list(workshop.artifacts.glob("saes/*"))) == 2
    for other in ("analysis.sae.top=8", "analysis.sae.behaviours=[french,bravery]"):
        done = workshop.train(*asked, other)
        assert done.code == 0, done.told
        assert len(list(workshop.artifacts.glob("saes/*"))) == 2
    assert [s["behaviour"] for s in results(workshop)["sae"]["steering"]] == ["french", "bravery"]
    assert workshop.train(*asked, "batches.rows=128").code == 0
    assert len(list(workshop.artifacts.glob("saes/*"))) == 4


def test_a_published_file_counts_by_its_content(workshop: Workshop, tmp_path: Path) -> None:
    source, target = gemma_scope(tmp_path / "a", 32, 1), gemma_scope(tmp_path / "b", 48, 2)
    paths = (f"analysis.sae.source={source}", f"analysis.sae.target={target}", "analysis.sae.features=0")
    with mock.patch.object(Features, "make", return_value={"planted": 1}):
        assert workshop.train(*QUICK, *paths).code == 0
        # the same place, another content
        other = gemma_scope(tmp_path / "c", 32, 1, features=44)
        source.write_bytes(other.read_bytes())
        assert workshop.train(*QUICK, *paths).code == 0
    assert kinds(workshop)["sae"] == 2


def test_settings_of_autoencoders_that_cannot_be(workshop: Workshop, tmp_path: Path) -> None:
    source, target = gemma_scope(tmp_path / "a", 32, 1), gemma_scope(tmp_path / "b", 48, 2)
    files = (f"analysis.sae.source={source}", f"analysis.sae.target={target}")
    both = workshop.train(*QUICK, *files, "analysis.sae.features=64")
    assert both.code == 1
    assert "set analysis.sae.features=0, or name one file" in both.line
    unknown = workshop.train(*QUICK, "analysis.sae.features=64", "analysis.sae.behaviours=[politeness]")
    assert unknown.code == 1
    assert "analysis.sae.behaviours holds 'politeness', which is not in the suite" in unknown.line
    # with layers=auto too it is told at once
    auto = ("layers.source=auto", "layers.target=auto", "recording.source=[0,2]", "recording.target=[2]")
    none = workshop.train(*QUICK, *auto, *files, "analysis.sae.features=0")
    assert none.code == 1
    assert "is of layer 1, which is none of the candidates [0, 2]" in none.line
    assert not workshop.files("activations")
