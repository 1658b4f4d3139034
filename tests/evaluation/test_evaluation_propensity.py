import json
from dataclasses import replace

import numpy as np
import pytest
from planted_studies import CHANGES, GRID, planted_study
from small_behaviours import choice_behaviour, text_behaviour

from lrt.evaluation import StrengthGrid, summarise
from lrt.evaluation.scorers import Answer


def test_propensity_statistics() -> None:
    behaviour = choice_behaviour(test=8)
    statistics = summarise(behaviour, planted_study(behaviour, noise=0.2), GRID)["propensity"]
    assert statistics["strengths"] == list(GRID.strengths)
    assert statistics["paper_r"][1] == pytest.approx(1)
    assert statistics["paper_mse"][1] == 0
    assert statistics["slope"] == pytest.approx(1.6, abs=0.2)
    assert statistics["native_slope"] == pytest.approx(2.0, abs=0.2)
    assert statistics["slope_ratio"] == pytest.approx(0.8, abs=0.1)
    assert statistics["anti_steerable"] == statistics["native_anti_steerable"] == 0
    assert statistics["anti_steerable_ci"] == [0, 0]
    assert statistics["slope_ratio_random"]["mean"] == pytest.approx(0.05, abs=0.05)
    assert statistics["random_anti_steerable"] > 0
    assert statistics["paper_mse_random"][-1] == pytest.approx(1.9**2, rel=0.2)
    assert statistics["key_shift"]["native"] < 0.3
    assert statistics["stratified_r_random"]["draws"] == 1
    at = statistics["stratified_r_at"]
    assert at["strengths"] == [s for s in GRID.strengths if s != 0]
    for value, (low, high), random in zip(at["value"], at["ci"], at["random"], strict=True):
        assert low <= value <= high
        assert 0 <= random <= 1
    of_one = summarise(behaviour, planted_study(behaviour, noise=0.2), StrengthGrid((0.0, 1.0)))["propensity"]
    assert of_one["stratified_r"] == pytest.approx(at["value"][-1])
    assert statistics["ceiling"] == pytest.approx(max(statistics["half_r"], 0) ** 0.5)
    downwards = replace(behaviour, direction=-1)
    against = summarise(downwards, planted_study(downwards), GRID)["propensity"]
    assert against["anti_steerable"] == 1
    assert against["slope_ratio"] is None  # over a native slope the wrong way


def test_what_is_told_of_the_curve_is_of_undamaged_strengths() -> None:
    behaviour = choice_behaviour(test=8)
    whole = planted_study(behaviour, noise=0.2)
    statistics = summarise(behaviour, whole, GRID)["propensity"]
    assert statistics["pooled_strengths"] == list(GRID.strengths)
    broken = tuple(
        replace(d, rise=1.0, cross_entropy=3.0) if d.strength in (-1.0, 1.0) else d for d in whole.damages
    )
    mild = summarise(behaviour, replace(whole, damages=broken), GRID)["propensity"]
    assert mild["pooled_strengths"] == [0.0, 0.5]
    of_one = summarise(behaviour, whole, StrengthGrid((0.0, 0.5)))["propensity"]
    for name in ("stratified_r", "stratified_r_ci", "slope", "native_slope", "slope_ratio"):
        assert mild[name] == of_one[name]
    assert mild["strengths"] == list(GRID.strengths)
    assert mild["paper_r"] == statistics["paper_r"]
    all_broken = tuple(replace(d, rise=1.0, cross_entropy=3.0) for d in whole.damages)
    worst = summarise(behaviour, replace(whole, damages=all_broken), GRID)["propensity"]
    assert worst["pooled_strengths"] == list(GRID.strengths)


def test_every_statistic_has_its_interval() -> None:
    behaviour = choice_behaviour(test=8)
    statistics = summarise(behaviour, planted_study(behaviour, noise=0.5), GRID)["propensity"]
    for name in (
        "slope",
        "native_slope",
        "stratified_r",
        "stratified_r_probability",
        "half_r",
        "across_prompts_r",
    ):
        low, high = statistics[f"{name}_ci"]
        assert low < statistics[name] < high
    for name in ("paper_r", "paper_mse"):
        assert len(statistics[f"{name}_ci"]) == len(GRID.strengths)
        for value, (low, high) in list(zip(statistics[name], statistics[f"{name}_ci"], strict=True))[2:]:
            assert low <= value <= high


def test_answers_in_the_models_own_words_have_the_same_statistics() -> None:
    behaviour = choice_behaviour(test=8)
    opened = replace(behaviour, scorer=Answer(), max_new_tokens=4)
    summary = summarise(opened, planted_study(opened, noise=0.2), GRID)
    assert summary["kind"] == "text"
    assert len(summary["examples"]) == 3
    statistics = summary["propensity"]
    read = summarise(behaviour, planted_study(behaviour, noise=0.2), GRID)["propensity"]
    for name in ("paper_r", "stratified_r", "stratified_r_ci", "slope_ratio", "anti_steerable"):
        assert statistics[name] == read[name]
    flat = summarise(opened, planted_study(opened, changes=dict.fromkeys(CHANGES, 0.0)), GRID)["propensity"]
    assert flat["stratified_r"] is None
    assert flat["slope_ratio"] is None
    json.dumps(flat, allow_nan=False)


def test_propensity_is_told_of_probabilities_too() -> None:
    behaviour = choice_behaviour(test=8)
    study = planted_study(behaviour, noise=0.5)
    summary = summarise(behaviour, study, GRID)

    def shares(condition: str, strength: float) -> list[float]:
        return [
            row.probability or 0.0
            for row in study.measurements
            if (row.split, row.condition, row.draw, row.strength) == ("test", condition, 0, strength)
        ]

    ours, native = np.array(shares("transferred", 1.0)), np.array(shares("native", 1.0))
    statistics = summary["propensity"]
    assert statistics["paper_mse_probability"][-1] == pytest.approx(np.mean((ours - native) ** 2))
    assert statistics["paper_r_probability"][-1] == pytest.approx(np.corrcoef(ours, native)[0, 1])
    assert statistics["paper_r_probability"][1] == pytest.approx(
        1
    )  # strength 0 is the unsteered model in both
    assert statistics["paper_mse_probability"] != statistics["paper_mse"]
    for name in ("paper_r_probability", "paper_mse_probability"):
        low, high = statistics[f"{name}_ci"][-1]
        assert low <= statistics[name][-1] <= high
    assert summary["probability"]["native"] == pytest.approx(native.mean())
    assert summary["probability"]["none"] == pytest.approx(np.mean(shares("none", 0.0)))
    assert {"none", "native", "transferred", "random", "prompt", "source"} <= set(summary["probability"])
    low, high = statistics["stratified_r_ci"]
    assert low <= statistics["stratified_r"] <= high
    # a record of old rows, in which no probability was kept
    bare = replace(study, measurements=tuple(replace(row, probability=None) for row in study.measurements))
    assert summarise(behaviour, bare, GRID)["propensity"]["paper_r_probability"] == []
    text = text_behaviour()
    assert summarise(text, planted_study(text), GRID)["probability"] == {}
