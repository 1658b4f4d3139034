"""Stage 5: maps of the whole corpus and of its parts, solved or trained."""

import logging
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from stages import QUESTIONS, SCALE, STORIES, TRAINER, Stages, corpus
from storybook_models import semi_orthogonal

import lrt
from lrt.config import ConfigError, Layers
from lrt.config.sections import DuringTraining
from lrt.mapping import (
    ClosedFormSpec,
    FitHistory,
    FitSpec,
    MapForeign,
    MapMissing,
    MapSpec,
    cosine,
    jackknife,
    load_map,
    ridge_at,
    ridge_path,
    ridge_per_direction,
)
from lrt.models.sides import SIDES
from lrt.pipeline import Monitor, require_maps
from lrt.pipeline.nulls import untrained_moments
from lrt.steering import SteeringVector
from lrt.storage.checkpoints import OutOfTime

BRIEF = FitSpec(epochs=1)


def card_of(stages: Stages) -> dict[str, Any]:
    return stages.fitted()["whole corpus"]


# -- planted truths ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def solved(oracle: Stages) -> dict[str, Any]:
    return card_of(oracle)


def test_the_map_to_an_image_is_exact(oracle: Stages, solved: dict[str, Any]) -> None:
    metrics = solved["metrics"]
    assert metrics["fvu"] < 1e-4
    assert metrics["cosine"] > 0.9999
    assert all(value > 0.999 for value in metrics["cosine_with_native"].values())
    assert all(abs(value) < 0.02 for value in metrics["error_along"].values())
    states = oracle.maps.whole.states["bravery"]
    transferred = oracle.maps.whole.mapping.transfer(states.vectors("source"), 1).direction
    image = SCALE * semi_orthogonal(48, 32).float() @ states.source_vector
    torch.testing.assert_close(transferred, image, rtol=0.02, atol=0.02 * float(image.abs().max()))


def test_nulls_of_an_exact_map_fail(oracle: Stages) -> None:
    """A map of shuffled pairs is as bad as the mean, and so is the embeddings' for deep layers."""
    fvu = {
        solver: card_of(oracle.but(fit=ClosedFormSpec(solver=solver)))["metrics"]["fvu"]  # type: ignore[arg-type]
        for solver in ("shuffled_pairs", "mean_only", "embeddings")
    }
    assert fvu["shuffled_pairs"] == pytest.approx(1.0, abs=0.1)
    assert fvu["mean_only"] == pytest.approx(1.0, abs=0.05)
    assert fvu["embeddings"] < 0.01  # an image of embeddings is the image of all that follows


def test_a_model_is_mapped_to_itself_by_the_identity(oracle: Stages, tmp_path: Path) -> None:
    same = replace(oracle.pair, models=dict.fromkeys(SIDES, oracle.pair.models["source"]))
    stages = oracle.but(pair=same, folder=tmp_path, fit=ClosedFormSpec(solver="identity"))
    assert card_of(stages)["metrics"]["fvu"] == pytest.approx(0.0, abs=1e-9)


def test_an_orthogonal_map_finds_the_rotation(oracle: Stages) -> None:
    stages = oracle.but(map=MapSpec("orthogonal"))
    assert card_of(stages)["metrics"]["fvu"] < 1e-4
    assert stages.maps.whole.affine.describe()["orthogonality_defect"] == pytest.approx(0.0, abs=1e-6)


# -- solved, trained, started ------------------------------------------------------------------------


def test_kinds_and_solvers_are_ordered_as_they_must_be(oracle: Stages) -> None:
    # another depth than the source's: no map is exact
    deeper = oracle.but(layers=Layers(0, 2))
    fvu = {
        name: card_of(deeper.but(**settings))["metrics"]["fvu"]
        for name, settings in {
            "full": {},
            "per direction": {"fit": ClosedFormSpec(solver="ridge_per_direction")},
            "rank": {"map": MapSpec("low_rank", rank=4)},
            "orthogonal": {"map": MapSpec("orthogonal")},
            "penalty": {"map": MapSpec("orthogonal_penalty", penalty=0.1)},
            "mean": {"fit": ClosedFormSpec(solver="mean_only")},
        }.items()
    }
    assert fvu["per direction"] < 1.05 * fvu["full"]
    assert fvu["full"] < min(fvu["rank"], fvu["orthogonal"], fvu["penalty"])
    assert fvu["penalty"] < fvu["orthogonal"] * 1.0001
    assert max(fvu["rank"], fvu["orthogonal"]) < fvu["mean"]


def test_the_optimum_says_how_it_was_solved(oracle: Stages, solved: dict[str, Any]) -> None:
    assert solved["solved"]["ridge_weight"] == solved["metrics"]["ridge_weight"]
    assert solved["training"]["val"] == []
    assert abs(solved["metrics"]["excess_over_optimum"]) < 1e-3
    assert solved["metrics"]["gcv_weight"] is not None
    assert not list(oracle.folder.glob("maps/*/checkpoints"))


def test_gradient_steps_come_near_the_optimum_from_above(oracle: Stages, solved: dict[str, Any]) -> None:
    batches = replace(oracle.batches, rows=256)
    card = card_of(oracle.but(fit=FitSpec(epochs=3), batches=batches))
    optimum = card["metrics"]["optimum_fvu"]
    assert optimum * 0.999 <= card["metrics"]["fvu"] < 0.05
    assert solved["metrics"]["optimum_fvu"] == optimum
    losses = [fvu for _, fvu in card["training"]["val"]]
    assert losses[-1] < losses[0]
    assert card["steps"] == 3 * (card["rows"]["train"] // 256)


@pytest.mark.parametrize(
    ("start", "kind"),
    [("optimum", "full"), ("ridge", "low_rank"), ("procrustes", "full"), ("ridge", "orthogonal")],
)
def test_a_gradient_fit_starts_at_any_closed_form(oracle: Stages, start: Any, kind: Any) -> None:
    # next to no steps: where it ends is where it began
    spec = MapSpec(kind, rank=8) if kind == "low_rank" else MapSpec(kind)
    still = replace(BRIEF, learning_rate=1e-7, start=start)
    few = oracle.but(map=spec, batches=replace(oracle.batches, rows=2048))
    begun, mean = (card_of(few.but(fit=replace(still, start=at))) for at in (start, "mean"))
    assert begun["metrics"]["fvu"] < 0.8 * mean["metrics"]["fvu"]


@pytest.mark.slow
def test_a_gradient_fit_without_a_store_sees_the_documents_of_one_with(
    oracle: Stages, tmp_path: Path
) -> None:
    fitted = oracle.but(fit=FitSpec(epochs=3), batches=replace(oracle.batches, rows=256))
    flying = fitted.but(recording__states="none", folder=tmp_path)
    passed, stored = card_of(flying), card_of(fitted)
    assert not flying.files("activations")
    for name in ("rows", "rows_excluded_by", "steps"):
        assert passed[name] == stored[name], name
    # the same held-out documents, and as near to the optimum of the same training documents
    assert passed["metrics"]["optimum_fvu"] == pytest.approx(stored["metrics"]["optimum_fvu"], rel=1e-3)
    assert stored["metrics"]["optimum_fvu"] < passed["metrics"]["fvu"] < 1e-3
    assert stored["metrics"]["fvu"] < 1e-3
    assert passed["metrics"]["cosine"] == pytest.approx(stored["metrics"]["cosine"], abs=1e-3)
    assert len(passed["training"]["val"]) == len(stored["training"]["val"])
    # cached: no model runs again
    with mock.patch.object(type(flying.states), "for_fit", side_effect=AssertionError):
        assert card_of(flying.but()) == passed


def test_a_fit_that_its_rows_do_not_determine(shared: Stages) -> None:
    few = shared.but(pool=64, corpus=corpus(train=1024), fit=replace(BRIEF, ridge=False))
    with pytest.raises(ConfigError, match=r"fit\.ridge"):
        few.fitted()
    # an orthogonal map is determined by more than the rows
    assert card_of(few.but(map=MapSpec("orthogonal")))["rows"]["train"] <= 32


def test_as_many_degrees_of_freedom_as_rows_have_no_cross_validation(shared: Stages) -> None:
    assert card_of(shared.but(pool=64, corpus=corpus(train=1024)))["metrics"]["gcv_weight"] is None


def test_products_and_bias_are_settings(shared: Stages) -> None:
    one, other = (card_of(shared.but(products=products)) for products in ("float32", "float64"))
    assert one["fingerprint"] != other["fingerprint"]
    assert one["metrics"]["fvu"] == pytest.approx(other["metrics"]["fvu"], rel=1e-4)
    stages = shared.but(map=MapSpec(bias=False))
    assert card_of(stages)["metrics"]["fvu"] > one["metrics"]["fvu"]
    assert float(stages.maps.whole.affine.bias.abs().max()) == 0.0


# -- artifacts ---------------------------------------------------------------------------------------


def vectors_of(folder: Path, name: str, layer: int) -> dict[str, SteeringVector]:
    return {
        role: SteeringVector.load(folder / "vectors" / name / role / f"layer-{at}")
        for role, at in (("source", 1), ("native", layer), ("transferred", layer))
    }


def test_vectors_lie_beside_their_map(shared: Stages) -> None:
    card = card_of(shared)
    folder = shared.maps.whole.folder
    affine, saved = load_map(folder)
    assert saved["fingerprint"] == folder.name == card["fingerprint"]
    for name in ("capitals", "bravery"):
        vectors = vectors_of(folder, name, 2)
        torch.testing.assert_close(
            vectors["transferred"].direction, affine.weight @ vectors["source"].direction
        )
        native = shared.vectors.states[name].at((1,), (2,)).target_vector
        assert torch.equal(vectors["native"].direction, native)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layers": Layers((0, 1), (2, 3))},
        {"map": MapSpec(bias=False)},
        {"map": MapSpec("low_rank", rank=8), "fit": replace(BRIEF, start="ridge")},
    ],
)
def test_the_library_reads_a_map_of_a_run(shared: Stages, settings: dict[str, Any]) -> None:
    stages = shared.but(**settings)
    stages.fitted()
    fit = stages.maps.whole
    mapping = lrt.load_map(fit.folder)
    assert isinstance(mapping, lrt.FittedMap)
    source = [
        SteeringVector.load(fit.folder / "vectors" / "capitals" / "source" / f"layer-{layer}")
        for layer in fit.layers.source.layers
    ]
    bias = settings.get("map", MapSpec()).bias
    for layer in fit.layers.target.layers:
        result = mapping.transfer(source, target_layer=layer)
        saved = SteeringVector.load(fit.folder / "vectors" / "capitals" / "transferred" / f"layer-{layer}")
        assert torch.equal(result.vector.direction, saved.direction)
        assert replace(result.vector, direction=saved.direction).__dict__ == saved.__dict__
        columns = fit.layers.target.columns(layer)
        v = {"capitals": torch.cat([each.direction for each in source])}
        weight = fit.data.reference_ridge.weight
        (noise,) = jackknife(fit.data.folds, v, weight, bias=bias, columns=columns).values()
        assert result.forecast.signal_to_noise == pytest.approx(noise.signal_to_noise)
    assert f"{fit.pair.names['source']}" in (fit.folder / "README.md").read_text()


def test_sums_above_the_limit_are_not_saved_and_come_later(copied: Stages) -> None:
    few = copied.but(most_sums=1000.0)
    card = card_of(few)
    folder = few.maps.whole.folder
    assert card["sums"] is None
    assert not (folder / "sums.safetensors").exists()
    weights = (folder / "mapping.safetensors").read_bytes()
    again = card_of(copied.but())
    assert again["sums"]["bytes"] <= (folder / "sums.safetensors").stat().st_size
    assert {**again, "sums": None} == card
    assert (folder / "mapping.safetensors").read_bytes() == weights


def test_the_expected_fvu_of_shuffled_pairs_is_that_of_maps_of_them(shared: Stages) -> None:
    data = (stages := shared.but()).maps.whole.data
    weight, bias = data.reference_ridge.weight, data.settings.bias
    maps = [ridge_at(each, weight, bias=bias) for each in data.shuffled]
    drawn = [data.moments["test"].fvu_of(each) for each in maps]
    expected = card_of(stages)["metrics"]["fvu_shuffled"]
    assert expected == pytest.approx(sum(drawn) / len(drawn), rel=0.02)
    assert expected > 1


def test_a_map_is_fitted_once(shared: Stages) -> None:
    card_of(shared)
    before = shared.files("maps")
    with mock.patch("lrt.pipeline.maps.solve", side_effect=AssertionError("fitted again")):
        again = shared.but()
        assert card_of(again) == again.maps.cards()["whole corpus"]
    assert shared.files("maps") == before


def test_a_behaviour_that_is_added_gets_its_vectors_and_figures(copied: Stages) -> None:
    alone = copied.but(suite=copied.suite[:1])
    assert set(card_of(alone)["metrics"]["error_along"]) == {"capitals"}
    weights = alone.maps.whole.folder / "mapping.safetensors"
    before = weights.stat().st_mtime_ns, copied.files("activations")
    both = copied.but()
    card = card_of(both)
    assert set(card["metrics"]["error_along"]) == {"capitals", "bravery"}
    assert set(card["metrics"]["cosine_with_native"]) == {"capitals", "bravery"}
    assert (weights.stat().st_mtime_ns, copied.files("activations")) == before
    assert set(vectors_of(both.maps.whole.folder, "bravery", 2)) == {"source", "native", "transferred"}


def test_several_target_layers_have_a_figure_each(shared: Stages) -> None:
    card = card_of(shared.but(layers=Layers((0, 1), (2, 3))))
    assert set(card["metrics"]["error_along"]) == {
        f"{name}@{layer}" for name in ("capitals", "bravery") for layer in (2, 3)
    }


def test_each_part_has_the_map_of_its_own_behaviours(shared: Stages) -> None:
    own = shared.but(
        corpus=corpus(
            stories=replace(STORIES, fit_map_for=("capitals",)),
            questions=replace(QUESTIONS, fit_map_for=("bravery",)),
        )
    )
    cards = own.fitted()
    assert list(cards) == ["whole corpus", "stories", "questions"]
    assert cards["whole corpus"]["fingerprint"] == shared.maps.whole.fingerprint  # of all text it is the same
    assert len({card["metrics"]["fvu"] for card in cards.values()}) == 3
    assert (
        sum(cards[name]["rows"]["train"] for name in ("stories", "questions"))
        == cards["whole corpus"]["rows"]["train"]
    )
    for behaviour, part in zip(own.suite, ("stories", "questions"), strict=True):
        fit = own.maps.of(behaviour)
        assert fit.name == part
        assert [path.name for path in (fit.folder / "vectors").iterdir()] == [behaviour.name]
    # a behaviour that all parts name uses the map of the whole corpus
    parts = {name: replace(source, fit_map_for=("capitals",)) for name, source in own.corpus.sources.items()}
    assert shared.but(corpus=corpus(**parts)).maps.of_parts == ()


def required(stages: Stages) -> None:
    require_maps(stages.plan, stages.parts_for, stages.rows, stages.fit_settings, stages.output)


def test_without_a_map_of_its_states_no_layer_is_chosen(empty: Stages, shared: Stages) -> None:
    """Which layers shows after recording and choosing; that there is no map shows before."""
    card_of(shared)
    auto = Layers("auto", "auto")
    with pytest.raises(MapMissing, match=r"python train\.py layers\.source=1"):
        required(empty.but(layers=auto))
    assert not empty.files("activations")
    recorded = shared.plan.recorded
    both = {"recording__source": recorded.source.layers, "recording__target": recorded.target.layers}
    required(shared.but(layers=auto, **both))
    with pytest.raises(MapMissing):  # its maps are of other states
        required(shared.but(layers=auto, recording__batch_tokens=shared.recording.batch_tokens + 64, **both))


def test_a_missing_map_names_the_line_that_makes_it(empty: Stages, shared: Stages) -> None:
    with pytest.raises(MapMissing, match=r"python train\.py layers\.source=1"):
        required(empty)
    card_of(shared)
    required(shared)
    with pytest.raises(MapMissing, match=r"python train\.py"):
        shared.but(map=MapSpec(bias=False, kind="orthogonal")).maps.cards()


def test_a_map_of_other_settings_in_its_place_is_refused(copied: Stages) -> None:
    card_of(copied)
    other = copied.but(pool=2)
    shutil.copytree(copied.maps.whole.folder, other.maps.whole.folder)
    with pytest.raises(MapForeign, match=str(other.maps.whole.folder)):
        other.fitted()


# -- training ----------------------------------------------------------------------------------------


def test_steering_evaluations_are_in_the_card(shared: Stages) -> None:
    during = DuringTraining(("bravery",), points=3, items=4)
    stages = shared.but(fit=BRIEF, evaluation__during_training=during)
    evaluations = card_of(stages)["training"]["steering_evaluations"]
    assert {point["behaviour"] for point in evaluations} == {"bravery"}
    # a map that is there is not trained again, and needs no choice
    before = stages.files("maps")
    with mock.patch("lrt.pipeline.maps.steering_evaluation", side_effect=AssertionError("steered again")):
        stages.but().fitted()
    assert stages.files("maps") == before


class PowerCut(RuntimeError):
    pass


@pytest.fixture
def epochs(copied: Stages) -> Stages:
    return copied.but(fit=FitSpec(epochs=3), batches=replace(copied.batches, rows=128))


@pytest.mark.slow
def test_a_fit_that_was_cut_off_ends_with_the_same_map(
    epochs: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(epochs.folder, tmp_path / "whole")
    whole = epochs.but(folder=tmp_path / "whole")
    card = card_of(whole)
    steps = card["steps"] // 3
    hook = FitHistory.on_train_batch_end

    def power_cut(self: FitHistory, trainer: Any, *rest: Any) -> None:
        hook(self, trainer, *rest)
        if trainer.current_epoch == 2 and trainer.global_step % steps == steps // 2:
            raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(FitHistory, "on_train_batch_end", power_cut)
        with pytest.raises(PowerCut):
            epochs.fitted()
    assert not epochs.maps.whole.exists
    seen: list[int] = []

    def counted(self: FitHistory, trainer: Any, *rest: Any) -> None:
        hook(self, trainer, *rest)
        seen.append(trainer.global_step)

    monkeypatch.setattr(FitHistory, "on_train_batch_end", counted)
    again = epochs.but()
    resumed = card_of(again)
    assert seen[0] == 2 * steps + 1  # it went on behind the second epoch
    assert torch.equal(again.maps.whole.affine.weight, whole.maps.whole.affine.weight)
    assert torch.equal(again.maps.whole.affine.bias, whole.maps.whole.affine.bias)
    assert resumed["training"] == card["training"]  # curves have no gap
    assert resumed["steps"] == card["steps"]


@pytest.mark.slow
def test_a_fit_that_ran_out_of_time_is_not_finished_and_goes_on(epochs: Stages, tmp_path: Path) -> None:
    shutil.copytree(epochs.folder, tmp_path / "whole")
    whole = epochs.but(folder=tmp_path / "whole")
    card = card_of(whole)
    runs, hurried = 0, epochs.but(trainer={**TRAINER, "max_time": {"seconds": 0}})
    assert hurried.maps.whole.fingerprint == whole.maps.whole.fingerprint
    while runs < 3:  # a step each
        runs += 1
        again = hurried.but()
        with pytest.raises(OutOfTime, match=rf"after step {runs} of {card['steps']}"):
            again.fitted()
        assert not again.maps.whole.exists
    last = epochs.but(trainer={**TRAINER, "max_time": "00:01:00:00"})
    resumed = card_of(last)
    assert torch.equal(last.maps.whole.affine.weight, whole.maps.whole.affine.weight)
    assert resumed["training"] == card["training"]


def test_a_fit_of_fewer_steps_is_another_map_and_says_so(epochs: Stages) -> None:
    few = epochs.but(trainer={**TRAINER, "max_steps": 3})
    card = card_of(few)
    assert few.maps.whole.fingerprint != epochs.maps.whole.fingerprint
    assert (card["steps"], card["trainer"]["max_steps"]) == (3, 3)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "16-mixed"])
@pytest.mark.slow
def test_a_fit_in_any_other_precision_comes_near_the_optimum(shared: Stages, precision: str) -> None:
    plain, other = (
        card_of(shared.but(fit=BRIEF, trainer={**TRAINER, "precision": each}))["metrics"]["fvu"]
        for each in ("32-true", precision)
    )
    assert other == pytest.approx(plain, rel=0.05)


@pytest.mark.slow
def test_the_whole_corpus_map_may_start_from_a_checkpoint(copied: Stages) -> None:
    first = copied.but(
        fit=BRIEF, corpus=corpus(stories=replace(STORIES, fit_map_for=("capitals",)), questions=QUESTIONS)
    )
    first.fitted()
    checkpoint = first.maps.whole.folder / "checkpoints" / "last.ckpt"
    longer = first.but(fit=FitSpec(epochs=2), ckpt_path=str(checkpoint))
    fresh = first.but(fit=FitSpec(epochs=2))
    assert longer.maps.whole.fingerprint != fresh.maps.whole.fingerprint
    (part,), (plain,) = longer.maps.of_parts, fresh.maps.of_parts
    assert part.fingerprint == plain.fingerprint  # of parts it is no business
    cards = longer.fitted()
    epoch = cards["whole corpus"]["rows"]["train"] // 64
    assert cards["whole corpus"]["steps"] == 2 * epoch


def test_a_map_that_another_process_fitted_meanwhile_is_read(copied: Stages, tmp_path: Path) -> None:
    shutil.copytree(copied.folder, tmp_path / "other")
    stages, other = copied.but(fit=BRIEF), copied.but(fit=BRIEF, folder=tmp_path / "other")
    other.fitted()
    fit, reference = stages.maps.whole, other.maps.whole.folder
    reads = iter([False, True])

    def exists() -> bool:
        if next(reads, True):
            shutil.copytree(reference, fit.folder, dirs_exist_ok=True)
            return True
        return False

    with (
        mock.patch.object(type(fit), "exists", property(lambda _: exists())),
        mock.patch("lightning.Trainer.fit", side_effect=AssertionError("fitted twice")),
    ):
        card = fit.fit(None)
    assert card["fingerprint"] == fit.fingerprint


# -- nulls -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["optimum", "ridge_per_direction"])
def test_nulls_are_solved_as_the_map_is(oracle: Stages, untrained: Any, solver: Any) -> None:
    stages = oracle.but(
        fit=ClosedFormSpec(solver=solver), evaluation__resampled_draws=2, untrained=(untrained,)
    )
    fit = stages.maps.whole
    stages.fitted()
    maps = fit.transfer_maps(stages.evaluation, 0, stages.untrained)
    data = fit.data
    for name, states in fit.states.items():
        v = states.source_vector
        for refitted, prompts in zip(maps.resampled[name], maps.prompts[name], strict=True):
            # the oracle's pairs leave nothing to chance but the prompts
            assert cosine(refitted, fit.affine.directions(states.source.difference(prompts))) > 0.99
        weight = data.reference_ridge.weight
        if solver == "optimum":
            wanted = ridge_at(data.shuffled[0], weight, bias=data.settings.bias).directions(v)
            assert (maps.shuffled[name][0] - wanted).abs().max() < 1e-9 * float(v.norm())
        assert len(maps.resampled[name]) == 2
        (null,), (own,) = maps.untrained_source[name], states.untrained_sources
        train, validation = (untrained_moments(data, untrained, s) for s in ("train", "validation"))
        assert train.count == data.train_moments.count
        # chosen on its own validation rows, as the map's is, but of every document
        every, held_out = (
            untrained_moments(data, untrained, s, every_document=True) for s in ("train", "validation")
        )
        best = ridge_path(every, held_out, bias=data.settings.bias).weight * train.count / every.count
        if solver == "ridge_per_direction":
            fitted = ridge_per_direction(train, validation, best, bias=data.settings.bias).map
        else:
            fitted = ridge_at(train, best, bias=data.settings.bias)
        assert (null - fitted.directions(own.difference())).abs().max() < 1e-8 * float(v.norm())


# -- two runs at once --------------------------------------------------------------------------------


def wait_for(file: Path) -> None:
    until = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_second_process_waits_for_the_fit_and_reads_its_map(copied: Stages, tmp_path: Path) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    hook = FitHistory.on_train_batch_end

    def paused(self: FitHistory, *rest: Any) -> None:
        hook(self, *rest)
        begun.touch()
        wait_for(go_on)

    def first() -> None:
        with mock.patch.object(FitHistory, "on_train_batch_end", paused):
            copied.but(fit=BRIEF).fitted()

    process = multiprocessing.get_context("fork").Process(target=first)
    process.start()
    wait_for(begun)

    class GoOn(logging.Handler):
        """The first goes on once the second is seen to wait."""

        def emit(self, record: logging.LogRecord) -> None:
            if copied.folder.name in record.getMessage():
                go_on.touch()

    logger, handler = logging.getLogger("lrt.storage.locks"), GoOn()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        second = copied.but(fit=BRIEF)
        with mock.patch("lightning.Trainer.fit", side_effect=AssertionError("fitted twice")):
            card = card_of(second)
    finally:
        go_on.touch()
        logger.removeHandler(handler)
        logger.setLevel(level)
    process.join(60)
    assert process.exitcode == 0
    assert card["fingerprint"] == second.maps.whole.fingerprint


def test_a_fit_stops_early_and_limits_of_the_trainer_are_the_users_to_fix(copied: Stages) -> None:
    still = FitSpec(epochs=5, learning_rate=1e-9, patience=1, least_improvement=0.1)
    card = card_of(copied.but(fit=still))
    assert card["steps"] < 5 * (card["rows"]["train"] // 64)
    few = copied.but(fit=BRIEF, trainer={**copied.trainer, "limit_train_batches": 0.001})
    with pytest.raises(ConfigError, match="trainer"):
        few.fitted()


class Counting(Monitor):
    """Adds up what is advanced, by what."""

    def __init__(self) -> None:
        super().__init__()
        self.totals: dict[str, list[int]] = {}

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        counts = self.totals.setdefault(what, [total, 0])

        def advance(count: int) -> None:
            counts[1] += count

        yield advance


def test_a_training_shows_its_steps(copied: Stages) -> None:
    monitor = Counting()
    shown = {**copied.trainer, "enable_progress_bar": True}
    stages = replace(copied, monitor=monitor, fit=BRIEF, trainer=shown)
    steps = card_of(stages)["steps"]
    assert [steps, steps] in monitor.totals.values()
