"""train.py and evaluate.py on a tiny pair: what they leave, what they reuse, what they report."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from running import MicroRun, Workshop, composed, run_main
from upstream_files import gemma_scope

import lrt
from lrt.activations import ActivationStore
from lrt.config import read_config
from lrt.evaluation import NULLS
from lrt.mapping import LayerConcat, load_map
from lrt.pipeline import LayerPair
from lrt.pipeline.analyses import moments_bytes
from lrt.pipeline.analyses.features import Features
from lrt.pipeline.analyses.layers import RankCurve
from lrt.steering import SteeringVector
from lrt.storage.catalogue import artifacts_in
from studies.corpus_change import main as corpus_change
from studies.coverage import CONF, PREDICTORS, Coverage
from studies.coverage import main as coverage

QUICK = ("fit=closed_form", "evaluation.during_training.behaviours=[]", "evaluate=true")


def results_of(workshop: Workshop) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((workshop.report / "results.json").read_text())
    return results


@pytest.fixture
def results(micro_run: MicroRun) -> dict[str, Any]:
    return results_of(micro_run.workshop)


# -- the micro run -----------------------------------------------------------------------------------


def test_train_leaves_a_store_a_map_and_its_vectors(micro_run: MicroRun) -> None:
    workshop = micro_run.workshop
    store = ActivationStore.open(workshop.one("activations/*"))
    store.verify(full=True)
    assert store.rows("train") == 8192
    folder = workshop.one("maps/*")
    affine, card = load_map(folder)
    assert affine.weight.shape == (48, 32)
    assert card["layers"] == {"source": [1], "target": [2]}
    transferred = SteeringVector.load(folder / "vectors" / "french" / "transferred" / "layer-2")
    own = SteeringVector.load(folder / "vectors" / "french" / "source" / "layer-1")
    torch.testing.assert_close(transferred.direction, affine.weight @ own.direction)
    assert str(folder) in micro_run.train.line


def test_nothing_is_left_that_a_killed_run_would_leave(micro_run: MicroRun) -> None:
    folder = micro_run.workshop.artifacts
    assert [path for path in folder.rglob("*") if ".tmp-" in path.name or path.suffix == ".partial"] == []
    assert not list(folder.rglob("recording.json"))
    kinds = {path.name for path in folder.iterdir()}
    assert {"activations", "analysis", "choices", "corpora", "maps", "measurements", "moments"} <= kinds


def test_results_hold_what_was_wanted(results: dict[str, Any]) -> None:
    assert results["layers"] == {"source": [1], "target": [2]}
    assert results["map"]["kind"] == "full"
    for key in ("fvu", "r2", "excess_over_optimum", "rows", "rows_excluded"):
        assert math.isfinite(results["map"][key])
    kept = 8192 - results["map"]["rows_excluded"]
    assert results["pool"] == 16
    assert kept / 16 <= results["map"]["rows"] <= kept / 8  # no row of less than half a pool
    assert results["map"]["rows_excluded"] >= 8192 // 128  # position 0 of every sequence
    assert results["map"]["rows_excluded"] == sum(results["map"]["rows_excluded_by"].values())
    assert [b["name"] for b in results["behaviours"]] == ["french", "bravery"]
    for behaviour in results["behaviours"]:
        for key in ("metric", "strength", "unsteered", "native", "transferred", "paper_literal"):
            assert behaviour[key] is not None, key
        assert {"ratio", "ratio_ci"} <= set(behaviour)
        assert {"native", "transferred", "random"} <= set(behaviour["damage"])
    assert {e["behaviour"] for e in results["training"]["steering_evaluations"]} == {"french"}


def test_every_null_is_in_the_raw_record(micro_run: MicroRun) -> None:
    for name in ("french", "bravery"):
        _, *rows = micro_run.workshop.one(f"measurements/{name}-*.jsonl").read_text().splitlines()
        conditions = {row["condition"] for row in map(json.loads, rows) if row.get("split") == "test"}
        assert {*NULLS, "native", "transferred", "paper_literal", "prompt", "source"} <= conditions


def test_a_reused_stage_keeps_the_time_it_took(micro_run: MicroRun, results: dict[str, Any]) -> None:
    _, card = load_map(micro_run.workshop.one("maps/*"))
    # evaluate.py reused the map and the store: its own times of these stages would be next to nothing
    assert results["seconds"]["fit maps"] == card["seconds"]["fit maps"] > 0.05
    assert results["seconds"]["record states"] >= card["seconds"]["record states"] > 0.05
    stages = {"load pair", "extract vectors", "choose layer and strength", "moments", "evaluate"}
    assert stages <= set(results["seconds"])


def test_the_report_is_one_page_and_the_same_tables_in_markdown(micro_run: MicroRun) -> None:
    page = (micro_run.workshop.report / "index.html").read_text()
    assert "french" in page.casefold()
    assert "<svg" in page
    assert 'src="http' not in page
    assert "|" in (micro_run.workshop.report / "report.md").read_text()
    assert str(micro_run.workshop.report / "index.html") in micro_run.evaluate.line


def test_lightnings_test_metrics_are_those_of_the_moments(micro_run: MicroRun) -> None:
    _, card = load_map(micro_run.workshop.one("maps/*"))
    with (micro_run.workshop.folder / "train" / "csv" / "metrics.csv").open() as lines:
        reader = csv.DictReader(lines)
        (tested,) = [row for row in reader if row["test/fvu"]]
    logged = {"fvu": "fvu", "r2": "r2", "cosine": "cosine", "excess_over_optimum": "excess"}
    for ours, theirs in logged.items():
        assert float(tested[f"test/{theirs}"]) == pytest.approx(card["metrics"][ours], abs=1e-4), ours
    along = card["metrics"]["error_along"]["french"]
    assert float(tested["test/error_along/french"]) == pytest.approx(along, abs=1e-4)
    columns = {
        "train/fvu",
        "train/learning_rate",
        "val/fvu",
        "val/excess",
        "during_training/french/transferred",
    }
    assert columns <= set(reader.fieldnames or ())


def test_a_second_run_makes_nothing_again(micro_run: MicroRun) -> None:
    workshop = micro_run.workshop
    kinds = ("activations", "moments", "states", "choices", "maps", "measurements")
    before = {kind: workshop.files(kind) for kind in kinds}
    assert all(before.values())
    again = workshop.train(
        "evaluate=true",
        f"paths.report={workshop.folder / 'again'}",
        "logging.project=other",
        "pair.name=another",
        "batches.workers=0",
        run="again",
    )
    assert again.code == 0, again.output
    assert {kind: workshop.files(kind) for kind in kinds} == before
    # the report is made again from the raw record, to the same figures
    one, other = (json.loads((workshop.folder / f / "results.json").read_text()) for f in ("report", "again"))
    assert one["behaviours"] == other["behaviours"]
    assert one["map"] == other["map"]


@pytest.mark.slow
def test_some_of_a_suite_are_reported_as_they_stand_in_all_of_it(micro_run: MicroRun, tmp_path: Path) -> None:
    workshop = micro_run.workshop
    before = workshop.files("measurements")
    done = workshop.evaluate("evaluation.behaviours=[bravery]", f"paths.report={tmp_path}", run="some")
    assert done.code == 0, done.output
    assert workshop.files("measurements") == before
    some = json.loads((tmp_path / "results.json").read_text())
    assert some["behaviours"] == [b for b in results_of(workshop)["behaviours"] if b["name"] == "bravery"]


def test_the_working_folder_stays_clean(micro_run: MicroRun) -> None:
    names = {".hydra", "csv", "wandb", "outcome.json"}
    for name in ("train", "evaluate"):
        assert {p.name for p in (micro_run.workshop.folder / name).iterdir()} <= names
    outcome = json.loads((micro_run.workshop.folder / "evaluate" / "outcome.json").read_text())
    assert set(outcome["ratios"]) == {"french", "bravery"}


# -- mistakes and faults -----------------------------------------------------------------------------


def test_evaluate_without_a_map_names_the_line_that_makes_it(workshop: Workshop) -> None:
    with mock.patch("lrt.pipeline.vectors.contrast_states", side_effect=AssertionError("prompts are run")):
        done = workshop.evaluate("map.bias=false")
    assert done.code == 1
    line = "python train.py experiment=micro"
    assert line in done.line
    assert "map.bias=false" in done.line[done.line.index(line) :]
    assert not workshop.files("states")
    assert not workshop.files("activations")


def test_a_behaviour_that_is_not_in_the_suite_is_refused(workshop: Workshop) -> None:
    done = workshop.train("corpus.sources.questions.fit_map_for=[bravry]")
    assert done.code == 1
    assert "corpus.sources.questions.fit_map_for" in done.line
    assert "Traceback" not in done.output
    assert not workshop.files("activations")


@pytest.mark.slow
def test_a_fault_of_an_analysis_is_noted_and_its_traceback_logged(
    micro_run: MicroRun, tmp_path: Path
) -> None:
    workshop = micro_run.workshop
    with mock.patch.object(RankCurve, "make", side_effect=KeyError("a bug")):
        done = workshop.evaluate("analysis.rank_curve=true", f"paths.report={tmp_path}", run="fault")
    assert done.code == 0, done.output
    assert "Traceback" in done.output
    assert "KeyError" in done.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["notes"]["rank_curve"].startswith("failed")
    assert "rank_curve" not in results
    assert len(results["behaviours"]) == 2


# -- fuller runs -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_results_hold_every_analysis(workshop: Workshop) -> None:
    done = workshop.train(
        *QUICK,
        "recording.source=all",
        "recording.target=all",
        "analysis.rank_curve=true",
        "analysis.atlas=true",
        "analysis.many_to_one=true",
        "analysis.fidelity_tokens=1024",
        "analysis.sae.features=64",
    )
    assert done.code == 0, done.output
    results = results_of(workshop)
    assert "notes" not in results
    assert len(results["atlas"]) == 12
    entries = {"rank_curve", "many_to_one", "many_to_many", "fidelity", "sae"}
    assert entries <= set(results)
    (cell,) = (c for c in results["atlas"] if (c["source_layer"], c["target_layer"]) == (1, 2))
    # the atlas's pair is the map's own, solved anew
    assert cell["fvu"] == pytest.approx(results["map"]["optimum_fvu"], rel=1e-6)
    assert [depth["layer"] for depth in results["fidelity"]["stitching_depths"]] == [0, 1, 2, 3]
    (french,) = results["sae"]["steering"]
    assert len(french["features"]) == 16
    page = (workshop.report / "index.html").read_text()
    assert 'id="atlas"' in page
    stages = {"atlas", "fidelity", "rank curve", "many to one", "many to many", "sparse autoencoders"}
    assert stages <= set(results["seconds"])


@pytest.mark.slow
def test_each_behaviour_is_transferred_with_the_map_of_its_text(workshop: Workshop) -> None:
    own = (
        "corpus.sources.questions.fit_map_for=[bravery]",
        "corpus.sources.stories.fit_map_for=[french]",
    )
    done = workshop.train(*own, "evaluate=true")
    assert done.code == 0, done.output
    results = results_of(workshop)
    maps = {m["name"]: m for m in results["maps"]}
    assert {name: m["fitted_for"] for name, m in maps.items()} == {
        "whole corpus": [],
        "stories": ["french"],
        "questions": ["bravery"],
    }
    with (workshop.folder / "run" / "csv" / "stories" / "metrics.csv").open() as lines:
        assert "stories-val/fvu" in next(csv.reader(lines))
    # another choice records nothing again, and fits what is missing alone
    before = workshop.files("maps") | workshop.files("activations")
    assert workshop.train(own[0]).code == 0
    assert workshop.files("maps") | workshop.files("activations") == before


@pytest.mark.slow
def test_layers_are_chosen_and_evaluated_on_the_maps_that_were_fitted(trained: Workshop) -> None:
    """A pair whose models were trained: layers=auto through both commands."""
    auto = ("layers.source=auto", "layers.target=auto", *QUICK[:2], "suite.names=[french]", "pool=1")
    done = trained.train(*auto)
    assert done.code == 0, done.output
    _, card = load_map(trained.one("maps/*"))
    before = trained.files("maps")
    assert trained.evaluate(*auto).code == 0
    assert trained.files("maps") == before
    assert results_of(trained)["layers"] == card["layers"]


@pytest.mark.slow
@pytest.mark.parametrize("pool", [1, 4])
def test_a_map_on_the_fly_is_that_of_a_store(workshop: Workshop, pair_folder: Path, pool: int) -> None:
    stored = Workshop(pair_folder, workshop.folder / "stored")
    settings = (*QUICK, f"pool={pool}", "evaluation.shuffled_draws=2", "evaluation.untrained_draws=0")
    for run, states in ((workshop, "none"), (stored, "native")):
        done = run.train(*settings, f"recording.states={states}")
        assert done.code == 0, done.output
    assert not workshop.files("activations")
    (passed, card), (wanted, other) = (load_map(run.one("maps/*")) for run in (workshop, stored))
    assert card["rows"] == other["rows"]
    assert card["rows"]["train"] > 1000 / pool
    assert card["rows_excluded_by"] == other["rows_excluded_by"]
    scale = float(wanted.weight.abs().max())
    assert torch.allclose(passed.weight, wanted.weight, atol=1e-4 * scale)
    for name in ("fvu", "fvu_tokens", "fvu_unfiltered", "cosine"):
        assert card["metrics"][name] == pytest.approx(other["metrics"][name], rel=1e-3), name
    for mine, theirs in zip(
        results_of(workshop)["behaviours"], results_of(stored)["behaviours"], strict=True
    ):
        assert mine["native"] == pytest.approx(theirs["native"], abs=1e-4)
    # and it is reused, without another pass
    before = {path: path.stat().st_mtime_ns for path in workshop.artifacts.rglob("*") if path.is_file()}
    before = {path: at for path, at in before.items() if not {"locks", "latest"} & {*path.parts}}
    again = workshop.evaluate(*settings[:2], *settings[3:], "recording.states=none")
    assert again.code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_gradient_fit_without_a_store_runs_whole(workshop: Workshop) -> None:
    settings = ("recording.states=none", "evaluation.untrained_draws=0", "evaluate=true")
    done = workshop.train(*settings)  # steers with the unfinished map between two batches of a pass
    assert done.code == 0, done.output
    assert not workshop.files("activations")
    _, card = load_map(workshop.one("maps/*"))
    assert card["steps"] > 0
    assert card["training"]["steering_evaluations"]
    before = workshop.files("maps")
    assert workshop.evaluate(*settings[:2]).code == 0
    assert workshop.files("maps") == before


@pytest.mark.slow
def test_published_autoencoders_take_the_place_of_trained_ones(workshop: Workshop, tmp_path: Path) -> None:
    source, target = gemma_scope(tmp_path / "a", 32, 1), gemma_scope(tmp_path / "b", 48, 2)
    paths = (f"analysis.sae.source={source}", f"analysis.sae.target={target}")
    done = workshop.train(*QUICK, *paths, "analysis.sae.features=0")
    assert done.code == 0, done.output
    sae = results_of(workshop)["sae"]
    assert (sae["source"]["kind"], sae["source"]["features"], sae["target"]["layer"]) == ("jumprelu", 40, 2)
    assert not (workshop.artifacts / "saes").exists()


@pytest.mark.slow
def test_forecasts_are_scored_on_maps_with_parts_left_out(workshop: Workshop) -> None:
    # untrained models steer nothing, so what is measured is put in
    def planted(_self: Any, _behaviour: Any, _layer: int, maps: Mapping[str, Any]) -> dict[str, float]:
        return {name: 1.0 if name.startswith(("all", "without")) else 0.2 for name in maps}

    settings = [s for s in workshop.settings() if not s.startswith("corpus.sources.")]
    settings += ["corpus=storybook", "layers.target=[1,2]"]
    with mock.patch.object(Coverage, "_ratios", planted):
        ran = run_main(coverage, "coverage", *settings, beside=CONF)
    assert ran.code == 0, ran.output
    found = json.loads((workshop.report / "coverage.json").read_text())
    assert {row["behaviour"] for row in found["rows"]} == {"french", "bravery"}
    assert {row["layer"] for row in found["rows"]} == {1, 2}
    assert {"all", "without stories", "questions alone", "half 0"} <= {row["corpus"] for row in found["rows"]}
    assert set(found["scored"]) == {*PREDICTORS, "cosine"}
    for scored in found["scored"].values():
        low, high = scored["spearman_ci"]
        assert low <= scored["spearman"] <= high
    for row in found["rows"]:
        assert all(math.isfinite(row[name]) for name in PREDICTORS)


@pytest.mark.slow
def test_intervals_are_held_against_other_corpora(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.corpus_change.ALIKE", 2)
    monkeypatch.setattr("studies.corpus_change.REWEIGHTED", 2)
    settings = [s for s in workshop.settings() if not s.startswith("corpus.sources.")]
    ran = run_main(corpus_change, "corpus_change", *settings, "corpus=storybook", beside=CONF)
    assert ran.code == 0, ran.output
    found = json.loads((workshop.report / "corpus_change.json").read_text())
    assert found["contrasts"] == ["bravery", "french"]
    assert len({tuple(scores) for scores in found["scores"]}) == 4
    by_share = {(row[0], row[2]): row[4:] for row in found["rows"]}
    for corpora in ("other documents", "other weights too"):
        (narrow, seldom), (wide, often) = by_share[corpora, 0.0], by_share[corpora, 0.5]
        assert 0 < narrow < wide
        assert 0 <= seldom <= often <= 1


@pytest.mark.slow
def test_the_papers_autoencoders_fit_in_the_memory_that_their_experiment_asks_for() -> None:
    """Widths and features of Gemma-2 2b and 9b, without the models."""
    named = ("experiment=paper_sae", "analysis.sae.source=A", "analysis.sae.target=B")
    config = read_config(composed("train", *named, "suite.french=[F]", "suite.english=[E]"))
    layers = LayerPair(LayerConcat((20,), 2304), LayerConcat((20,), 3584))
    settings = SimpleNamespace(folds=config.evaluation.folds, shuffled_draws=config.evaluation.shuffled_draws)
    rows: Any = SimpleNamespace(settings=settings, monitor=None)
    autoencoders: Any = SimpleNamespace(
        settings=config.analysis.sae, fit=None, rows=rows, features=lambda _: 16_384
    )
    nothing: Any = None
    features = Features(autoencoders, layers, (), nothing, nothing)
    need = moments_bytes(rows, layers, 1, config.evaluation.untrained_draws > 0) + features.memory
    assert 0.9 * config.analysis.memory_bytes < need < config.analysis.memory_bytes


def test_a_run_leaves_its_results_there(micro_run: MicroRun) -> None:
    workshop = micro_run.workshop
    latest = workshop.artifacts / "latest"
    assert lrt.load_map(latest / "map").source_layer == 1
    for role, layer in (("source", 1), ("native", 2), ("transferred", 2)):
        vector = lrt.SteeringVector.load(latest / "vectors" / f"french-{role}-layer-{layer}")
        assert (vector.behaviour, vector.layer) == ("french", layer)
    assert (latest / "store" / "manifest.json").is_file()
    assert (latest / "run" / "outcome.json").is_file()
    assert (latest / "results.json").is_file()
    listed = artifacts_in(workshop.folder)
    assert not any("latest" in each.path.parts for each in listed)
    assert {"map", "vector", "store", "report"} <= {each.kind for each in listed}
