"""A behaviour that is not steered ends with what was tried and what to try next."""

import random
from dataclasses import replace
from typing import Any

import pytest
from stages import EVALUATION, RECORDING, Stages, corpus

from lrt.config import Layers, PairSettings
from lrt.evaluation import Behaviour, StorybookSuite, StrengthGrid, storybook_suite
from lrt.evaluation.native_next_steps import LEAST_SIGNAL_TO_NOISE
from lrt.lab.shipped import folder_of
from lrt.models import ModelSpec
from lrt.pipeline import load_pair
from lrt.pipeline.next_steps import next_steps
from lrt.report import summary_tables
from lrt.report.page import markdown, page
from lrt.report.plain import plain


def with_random_labels(behaviour: Behaviour, name: str) -> Behaviour:
    """The same prompts, positive or negative by lot."""
    prompts = [*behaviour.positives, *behaviour.negatives]
    random.Random(0).shuffle(prompts)
    half = len(prompts) // 2
    return replace(
        behaviour,
        name=name,
        contrast=name,
        positives=tuple(prompts[:half]),
        negatives=tuple(prompts[half:]),
    )


@pytest.fixture(scope="module")
def trained_pair(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Of a trained pair, steered by one vector and not by one of chance."""
    source, target = (ModelSpec(path=str(folder_of(name))) for name in ("tiny", "small"))
    folder = tmp_path_factory.mktemp("trained")
    pair = load_pair(PairSettings("trained", source, target), folder / "cache")
    suite = storybook_suite(StorybookSuite(names=("capitals",), contrast_pairs=24, development=8, test=8))
    (capitals,) = (replace(b, damage_texts=b.damage_texts[:4], max_new_tokens=12) for b in suite)
    grid = StrengthGrid((0.0, 0.25, 0.5), damage_limit=1.0)
    return Stages(
        pair,
        (capitals, with_random_labels(capitals, "chance")),
        folder / "artifacts",
        layers=Layers(1, 2),
        corpus=corpus(train=2048, held_out=512),
        recording=replace(RECORDING, source=(), target=(), verify=False),
        evaluation=replace(EVALUATION, grid=grid, random_draws=1, shuffled_draws=1, resampled_draws=0),
    )


@pytest.fixture(scope="module")
def results(trained_pair: Stages) -> dict[str, Any]:
    return trained_pair.results()


def test_a_behaviour_that_steers_has_none(results: dict[str, Any]) -> None:
    capitals = results["behaviours"][0]
    assert capitals["steers"]
    assert capitals["next_steps"] is None


def test_random_labels_end_with_what_was_tried_and_what_to_try(results: dict[str, Any]) -> None:
    chance = results["behaviours"][1]
    assert not chance["steers"]
    steps = chance["next_steps"]
    assert steps["vector"] == "native"
    assert [(trial["layer"], trial["strength"]) for trial in steps["tried"]] == [(2, 0.25), (2, 0.5)]
    (change,) = (trial["change"] for trial in steps["tried"] if trial["strength"] == chance["strength"])
    assert change == pytest.approx(chance["layers_tried"][0]["native_change"])
    assert all(trial["low"] <= trial["change"] <= trial["high"] for trial in steps["tried"])
    assert not any(trial["damaged"] for trial in steps["tried"])
    prompts = steps["prompts"]
    assert (prompts["positives"], prompts["negatives"], prompts["position"]) == (24, 24, "last token")
    assert prompts["signal_to_noise"]["2"] < LEAST_SIGNAL_TO_NOISE
    assert steps["layers_not_tried"] == [0, 1, 3]
    by_rule = {step["rule"]: step for step in steps["suggestions"]}
    assert {"few prompts", "other layers"} <= set(by_rule)
    assert "recording.target=[0,1,3]" in by_rule["other layers"]["action"]


def test_page_markdown_and_terminal_show_it_for_that_behaviour_alone(results: dict[str, Any]) -> None:
    shown = plain(results)
    terminal = "\n".join(table.markdown() for table in summary_tables(shown))
    for text in (page(shown), markdown(shown), terminal):
        assert "recording.target=" in text
        assert "chance: the native vector does not steer" in text
        assert "capitals: the native vector" not in text


def test_a_vector_that_does_not_steer_where_the_native_one_does_ends_with_what_is_known(
    trained_pair: Stages, results: dict[str, Any]
) -> None:
    capitals, _ = trained_pair.studied()
    (card,) = trained_pair.maps.cards().values()
    summary = results["behaviours"][0] | {"transferred_change_ci": [-0.1, 0.2]}
    steps = next_steps(capitals, summary, trained_pair.studies, card)
    assert steps is not None
    assert steps["vector"] == "transferred"
    assert steps["source"]["layer"] == 1
    assert steps["map"]["error_along"] == card["metrics"]["error_along"]["capitals"]
    assert steps["prompts"]["signal_to_noise"].keys() == {"1"}  # of the source: its vector is transferred
    assert [trial["strength"] for trial in steps["tried"]] == [0.25, 0.5]
    limits = trained_pair.analysis
    rules = {step["rule"] for step in steps["suggestions"]}
    assert ("too little text" in rules) is (capitals.forecast["signal_to_noise"] < limits.signal_to_noise)
    residual = capitals.forecast["residual_on_prompts"]
    assert ("text of another kind" in rules) is (residual > limits.residual_on_prompts)
    assert rules
