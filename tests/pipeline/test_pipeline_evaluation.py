"""Stages 6 and 7: measurements at the chosen layer and strength, and what the report says of them."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from stages import QUESTIONS, STORIES, Stages, corpus

from lrt.evaluation import NULLS, StrengthGrid
from lrt.evaluation.journal import Journal
from lrt.evaluation.scorers import Mentions
from lrt.lab.shipped import folder_of
from lrt.mapping import merge_all, ridge_at
from lrt.models import ModelSpec
from lrt.pipeline import ModelPair, UntrainedSource, outcome
from lrt.pipeline.analyses.given_away import explained
from lrt.pipeline.nulls import untrained_moments
from lrt.storage.cache import CacheCorrupt


@pytest.fixture(scope="module")
def exact(oracle: Stages) -> dict[str, Any]:
    """Results of a pair whose target is an image of its source."""
    strong = oracle.but(evaluation__grid=StrengthGrid((-1.0, 0.0, 0.5, 1.0), damage_limit=1e6))
    return strong.results()


def test_a_vector_that_is_transferred_exactly_does_what_the_native_one_does(exact: dict[str, Any]) -> None:
    (bravery,) = (b for b in exact["behaviours"] if b["name"] == "bravery")
    assert bravery["transferred"] == pytest.approx(bravery["native"], abs=0.02)
    for condition in ("native", "transferred"):
        (zero,) = (p for p in bravery["curves"][condition] if p["strength"] == 0.0)
        assert zero["mean"] == pytest.approx(bravery["unsteered"])
    transferred, native = ([p["mean"] for p in bravery["curves"][name]] for name in ("transferred", "native"))
    assert transferred == pytest.approx(native, abs=0.05)
    assert max(native) - min(native) > 0.1  # it steers: the agreement is not one of nothing
    dose = bravery["dose"]["conditions"]["transferred"]
    assert (dose["ratio"], dose["share"]) == pytest.approx((1.0, 1.0), abs=0.01)


def test_results_say_what_was_made(exact: dict[str, Any], oracle: Stages) -> None:
    assert exact["layers"] == {"source": [1], "target": [1]}
    assert exact["pair"]["source"]["width"] == 32
    assert exact["pair"]["target"]["width"] == 48
    assert [b["name"] for b in exact["behaviours"]] == ["capitals", "bravery"]
    assert exact["maps"][0]["fitted_for"] == ["capitals", "bravery"]
    assert exact["map"]["fvu"] < 1e-4
    assert [card["checks"] for card in exact["models"]] == [[], []]  # none of the lab's family
    assert {"moments", "fit maps", "evaluate"} <= set(exact["seconds"])
    row = outcome(oracle.pair, oracle.maps.cards()["whole corpus"], exact["seconds"], exact)
    assert set(row["ratios"]) == {"capitals", "bravery"}
    assert row["fvu"] == exact["map"]["fvu"]
    bare = outcome(oracle.pair, oracle.maps.cards()["whole corpus"], exact["seconds"])
    assert "ratios" not in bare
    none = {**exact, "behaviours": [{**b, "ratio": None} for b in exact["behaviours"]]}
    assert outcome(oracle.pair, oracle.maps.cards()["whole corpus"], {}, none)["mean_ratio"] is None


def test_members_of_the_family_bring_their_checks(exact: dict[str, Any], oracle: Stages) -> None:
    assert exact["split"] == "test"
    models = (oracle.pair.source, oracle.pair.target)
    specs = [ModelSpec(path=str(folder_of(name))) for name in ("tiny", "small")]
    pair: ModelPair = replace(oracle.pair)
    with (
        mock.patch.object(models[0], "spec", specs[0]),
        mock.patch.object(models[1], "spec", specs[1]),
    ):
        cards = oracle.but(pair=pair).results()["models"]
    assert [card["name"] for card in cards][:2] == ["tiny", "small"]
    assert len(cards) > 2  # the rest of the family too
    assert all(card["checks"] for card in cards)


@pytest.fixture(scope="module")
def measured(shared: Stages, tmp_path_factory: pytest.TempPathFactory, untrained: UntrainedSource) -> Stages:
    """Everything measured, with an untrained source. Not to be changed."""
    folder = tmp_path_factory.mktemp("measured") / "artifacts"
    for kind in ("activations", "corpora"):
        shutil.copytree(shared.folder / kind, folder / kind)
    stages = shared.but(folder=folder, untrained=(untrained,), evaluation__untrained_draws=1)
    stages.studied()
    return stages


def test_every_null_is_in_the_raw_record(measured: Stages) -> None:
    for each in measured.studied():
        conditions = {row.condition for row in each.study.measurements if row.split == "test"}
        assert {*NULLS, "native", "transferred", "paper_literal", "prompt", "source"} <= conditions


def test_behaviours_are_measured_once_and_each_by_itself(measured: Stages) -> None:
    before = measured.files("measurements")
    assert len(before) == 2
    with mock.patch("lrt.pipeline.evaluation.study", side_effect=AssertionError("measured again")):
        again = measured.but()
        (one,) = again.studies.measure(again.suite[1:])
        assert one.study == measured.studied()[1].study
        assert again.results()["behaviours"] == measured.results()["behaviours"]
    assert measured.files("measurements") == before


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ({"evaluation__max_rows": 8}, True),
        ({"evaluation__behaviours": ("bravery",)}, True),
        ({"evaluation__grid": StrengthGrid((-1.0, 0.0, 0.5, 1.0), ablation_fractions=(0.0, 1.0))}, True),
        ({"analysis__signal_to_noise": 1.0}, True),
        ({"evaluation__random_draws": 3}, False),
        ({"evaluation__grid": StrengthGrid((-1.0, 0.0, 0.5, 1.0), unit="absolute")}, False),
        ({"evaluation__eval_split": "development"}, False),
        ({"pool": 2}, False),
        ({"seed": 1}, False),
    ],
)
def test_what_measurements_depend_on(shared: Stages, setting: dict[str, Any], same: bool) -> None:
    assert (shared.but(**setting).studies.fingerprint == shared.studies.fingerprint) is same


def test_a_rival_that_is_added_is_one_more_null(measured: Stages, tmp_path: Path) -> None:
    shutil.copytree(measured.folder, tmp_path / "artifacts")
    stages = measured.but(folder=tmp_path / "artifacts")
    (alone,) = stages.but(suite=stages.suite[:1]).studied()
    assert "other" not in {row.condition for row in alone.study.measurements}
    assert len(stages.files("measurements")) == 3


def test_what_was_measured_can_be_read_by_itself(measured: Stages) -> None:
    """Measurements name items by id; the file beside them, made again where missing, has them."""
    measured.studied()
    files = list((measured.folder / "measurements").glob("items-*.jsonl"))
    files[0].unlink()
    measured.but().studied()
    for behaviour in measured.suite:
        (items,) = (path for path in files if path.name.startswith(f"items-{behaviour.name}"))
        rows = items.with_name(items.name.removeprefix("items-")).read_text().splitlines()[1:]
        prompts = {line["item"]: line["prompt"] for line in map(json.loads, items.read_text().splitlines())}
        measured_items = {row["item"] for row in map(json.loads, rows) if "item" in row}
        assert measured_items
        assert measured_items <= {*prompts}
        assert {*prompts.values()} == {item.prompt for item in behaviour.items}


@pytest.mark.slow
def test_a_part_of_the_corpus_is_held_against_the_map_of_all(shared: Stages) -> None:
    own = corpus(stories=STORIES, questions=replace(QUESTIONS, fit_map_for=("bravery",)))
    stages = shared.but(corpus=own)
    capitals, bravery = stages.studied()
    assert (capitals.fit.name, bravery.fit.name) == ("whole corpus", "questions")
    conditions = [{row.condition for row in each.study.measurements} for each in (capitals, bravery)]
    assert ["whole_corpus" in each for each in conditions] == [False, True]
    results = stages.results()
    assert [b["map"] for b in results["behaviours"]] == ["whole corpus", "questions"]
    forecasts = [b["whole_corpus_forecast"] for b in results["behaviours"]]
    assert forecasts[0] is None
    assert forecasts[1]["signal_to_noise"] is not None
    assert len(results["provenance"]["fingerprints"]) == 4


def test_texts_are_scored_again_by_a_further_scorer(measured: Stages, tmp_path: Path) -> None:
    shutil.copytree(measured.folder, tmp_path / "artifacts")
    suite = (replace(measured.suite[0], extra_scorers=(Mentions(("the",)),)), measured.suite[1])
    stages = measured.but(folder=tmp_path / "artifacts", suite=suite)
    before = stages.files("measurements")
    capitals, bravery = stages.results()["behaviours"]
    assert [each["scorer"] for each in capitals["rescored"]] == ["mentions"]
    assert bravery["rescored"] == []
    assert stages.files("measurements") == before


def test_an_evaluation_that_was_cut_off_goes_on_where_it_was(
    measured: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(measured.folder, tmp_path / "artifacts")
    shutil.rmtree(tmp_path / "artifacts" / "measurements")
    stages = measured.but(folder=tmp_path / "artifacts")
    batches: list[tuple[str, str]] = []
    batch = Journal.batch

    def cut_within_the_second(self: Journal, key: str, kind: Any, make: Any) -> Any:
        def watched() -> Any:
            batches.append((self.file.name.split("-")[0] if self.file else "", key))
            if [name for name, _ in batches].count("bravery") == 2:
                raise OSError("the power went")
            return make()

        return batch(self, key, kind, watched)

    monkeypatch.setattr(Journal, "batch", cut_within_the_second)
    with pytest.raises(OSError, match="the power went"):
        stages.studied()
    before = batches.copy()
    whole = [path for path in stages.files("measurements") if path.suffix == ".jsonl"]
    assert [path.name.split("-")[0] for path in whole] == ["capitals"]
    again = stages.but()
    studied = again.studied()
    # nothing that was whole was measured again: what was cut off is the first to be
    assert batches[len(before)] == before[-1]
    assert not set(batches[len(before) :]) & set(before[:-1])
    assert {path.suffix for path in again.files("measurements")} == {".jsonl"}
    assert [each.study for each in studied] == [each.study for each in measured.studied()]


def test_a_damaged_record_is_named(measured: Stages, tmp_path: Path) -> None:
    shutil.copytree(measured.folder, tmp_path / "artifacts")
    stages = measured.but(folder=tmp_path / "artifacts")
    file = next(iter(stages.files("measurements")))
    file.write_text(file.read_text().replace('"value": ', '"value": 1', 1))
    with pytest.raises(CacheCorrupt, match=file.name):
        stages.studied()


# -- the forecast ------------------------------------------------------------------------------------


def test_the_forecast_of_an_exact_transfer_does_not_warn(exact: dict[str, Any]) -> None:
    for behaviour in exact["behaviours"]:
        forecast = behaviour["forecast"]
        assert forecast["warning"] is None
        assert forecast["signal_to_noise"] > 5
        assert forecast["residual_on_prompts"] < 0.01
        assert forecast["agreement_documents"] > 0.99
        assert forecast["agreement_parts"] > 0.99
        assert forecast["agreement_whole_corpus"] is None


def test_the_thresholds_of_a_warning_determine_no_figure(measured: Stages) -> None:
    forecasts = [each.forecast for each in measured.studied()]
    before = measured.files("analysis")
    strict = measured.but(analysis__signal_to_noise=1e6, analysis__residual_on_prompts=0.0)
    warned = [each.forecast for each in strict.studied()]
    assert all(each["warning"] for each in warned)
    assert [{**each, "warning": None} for each in warned] == [{**each, "warning": None} for each in forecasts]
    assert measured.files("analysis") == before


def test_answers_to_choices_are_warned_of_by_a_threshold_of_their_own(measured: Stages) -> None:
    """Noise beside the one direction that an answer is read along only dilutes the vector."""
    behaviour = next(b for b in measured.suite if b.is_choice)
    by = measured.analyses.forecasts.of(measured.maps.whole, behaviour, 2)["signal_to_noise"]
    at = {"analysis__residual_on_prompts": 100.0, "analysis__signal_to_noise": by + 1}
    for threshold, warns in ((by - 0.1, False), (by + 0.1, True)):
        stages = measured.but(analysis__signal_to_noise_choice=threshold, **at)
        forecast = stages.analyses.forecasts.of(stages.maps.whole, behaviour, 2)
        assert (forecast["warning"] is not None) is warns


def test_one_fold_of_documents_has_no_jackknife(shared: Stages) -> None:
    data = type(shared.maps.whole.data)
    every = data.folds.fget
    whole = property(lambda self: [merge_all(every(self))])
    with mock.patch.object(data, "folds", whole):
        stages = shared.but(evaluation__resampled_draws=0, pool=2)
        forecast = stages.studied()[0].forecast
    assert forecast["signal_to_noise"] is None
    assert forecast["folds"] == 1
    assert math.isfinite(forecast["residual_on_prompts"])


@pytest.mark.slow
def test_a_part_without_rows_costs_no_forecast(shared: Stages) -> None:
    stages = shared.but(corpus=corpus(stories=STORIES, questions=replace(QUESTIONS, weight=1e-4)))
    stages.fitted()
    forecast = stages.analyses.forecasts.of(stages.maps.whole, stages.suite[0], 2)
    assert forecast["residual_on_prompts"] > 0
    assert forecast["agreement_parts"] is None
    # of one part, and on the fly, there is no other part to leave out
    for other in (shared.but(corpus=corpus(stories=STORIES)), shared.but(recording__states="none")):
        other.fitted()
        assert other.analyses.forecasts.of(other.maps.whole, other.suite[0], 2)["agreement_parts"] is None


def test_seconds_of_a_reused_stage_are_those_of_making_it(measured: Stages) -> None:
    again = measured.but()
    card = again.fitted()["whole corpus"]
    seconds = again.results()["seconds"]
    assert seconds["record states"] >= card["seconds"]["record states"]
    assert json.dumps(seconds)


# -- what the corpus gives away ----------------------------------------------------------------------


def test_what_untrained_sources_explain_is_the_share_within_their_span() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other, own, native = torch.linalg.qr(torch.randn(40, 4, generator=generator))[0].T
    nothing = explained(own, [one, other], own + native)
    assert nothing["share"] == pytest.approx(0.0, abs=1e-6)
    assert nothing["native"] == pytest.approx(nothing["native_beyond"]) == pytest.approx(0.5**0.5)
    everything = explained(one - 2 * other, [3 * one, other], native)
    assert everything["share"] == pytest.approx(1.0)
    # what an untrained source gives is no agreement of the trained one's
    given = explained(one + own, [one, one], one + native)  # the same source twice is one direction
    assert given["share"] == pytest.approx(0.5)
    assert given["native"] == pytest.approx(0.5)
    assert given["native_beyond"] == pytest.approx(0.0, abs=1e-6)
    assert given["untrained_native"] == pytest.approx([0.5**0.5] * 2)
    assert explained(0 * own, [one], native)["share"] == 0.0
    many = torch.randn(2000, 40, generator=generator).unbind()
    mean = sum(explained(each, [one, other], native)["share"] for each in many) / len(many)
    assert mean == pytest.approx(nothing["share_chance"], rel=0.1)


def test_an_untrained_source_explains_by_the_same_corpus_with_and_without_a_part(measured: Stages) -> None:
    (untrained,) = measured.untrained
    fit, data = measured.maps.whole, measured.maps.whole.data
    for behaviour in measured.results()["behaviours"]:
        given, columns = behaviour["given_away"], fit.layers.target.columns(2)
        states = fit.states[behaviour["contrast"]]
        (own,) = (each.difference() for each in states.untrained_sources)
        part = behaviour["forecast"]["part"]
        assert given["part"] == part
        assert part in {"stories", "questions"}
        trained, null = data.train_moments, untrained_moments(data, untrained)
        a_row = fit.refit.own_ridge(untrained)["weight_a_row"]
        weights = [data.reference_ridge.weight, a_row * null.count]
        (kept,) = {"stories", "questions"} - {part}
        rest = measured.rows.of(fit.layers, (kept,), held_out=False)
        images = [
            ridge_at(m, weight * m.count / whole.count).directions(v)[columns]
            for m, whole, weight, v in zip(
                (rest.train_moments, untrained_moments(rest, untrained)),
                (trained, null),
                weights,
                (states.source_vector, own),
                strict=True,
            )
        ]
        wanted = explained(images[0], images[1:], states.target_vector[columns])
        found = given["without_part"]
        assert found["share"] == pytest.approx(wanted["share"], abs=1e-5)
        assert found["native"] == pytest.approx(wanted["native"], abs=1e-5)
        assert found["untrained_native"] == pytest.approx(wanted["untrained_native"], abs=1e-5)
        assert given["fvu"] > 0
        assert len(given["fvu_untrained"]) == 1


def test_without_untrained_sources_nothing_is_said_of_them(exact: dict[str, Any]) -> None:
    assert [b["given_away"] for b in exact["behaviours"]] == [None, None]
