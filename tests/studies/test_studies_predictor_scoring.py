"""Scores of a perfect predictor, of noise, and of one that holds within its group alone."""

import numpy as np
import pytest

from studies.predictor_scoring import rank_correlation, score_predictor, score_rule

RNG = np.random.default_rng(0)
OUTCOME = RNG.random(60)
GROUPS = [f"vector {i % 6}" for i in range(60)]


def test_a_perfect_predictor() -> None:
    score = score_predictor(list(3 * OUTCOME - 7), list(OUTCOME), GROUPS, bar=0.5)
    assert score.spearman == pytest.approx(1.0)
    assert score.within == pytest.approx(1.0)
    # thresholds lie halfway between values of the other groups, so a row next to one may fall either side
    assert score.accuracy > 0.93
    assert score.threshold == pytest.approx(3 * 0.5 - 7, abs=0.1)


def test_noise_predicts_nothing() -> None:
    scores = [
        score_predictor(list(np.random.default_rng(i).random(60)), list(OUTCOME), GROUPS, 0.5)
        for i in range(40)
    ]
    assert abs(np.mean([s.spearman for s in scores])) < 0.05
    assert abs(np.mean([s.accuracy for s in scores]) - 0.5) < 0.06


def test_a_threshold_of_one_group_alone_is_useless_elsewhere() -> None:
    # each group has a level of its own, far from the others': right order within, no common threshold
    level = {name: 100.0 * i for i, name in enumerate(sorted(set(GROUPS)))}
    predictor = [level[g] + y for g, y in zip(GROUPS, OUTCOME, strict=True)]
    score = score_predictor(predictor, list(OUTCOME), GROUPS, 0.5)
    assert score.within == pytest.approx(1.0)
    assert score.accuracy < 0.65


def test_ties_share_their_rank() -> None:
    score = score_predictor([1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], ["a", "b", "a", "b"], 0.5)
    assert score.spearman == pytest.approx(1.0)
    assert score.accuracy == 1.0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([1.0], [1.0, 0.0], ["a", "b"]), "1 predictions"),
        (([1.0, 2.0], [1.0, 0.0], ["a", "a"]), "\\['a'\\]"),
        (([1.0, float("nan")], [1.0, 0.0], ["a", "b"]), "finite"),
        (([1.0, 2.0], [1.0, 0.9], ["a", "b"]), "0.5"),
    ],
)
def test_invalid_predictors(arguments: tuple[list[float], list[float], list[str]], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        score_predictor(*arguments, 0.5)
    if named != "0.5":  # a rank correlation has no bar
        with pytest.raises(ValueError, match=r"groups|finite"):
            rank_correlation(*arguments)


def test_the_rank_correlation_has_an_interval_over_groups() -> None:
    rising = rank_correlation(list(OUTCOME), list(OUTCOME**3), GROUPS)
    assert (rising.value, rising.low, rising.high) == pytest.approx((1.0, 1.0, 1.0))
    noise = rank_correlation(list(np.random.default_rng(1).random(60)), list(OUTCOME), GROUPS)
    assert noise.low < noise.value < noise.high
    constant = rank_correlation([1.0, 1.0], [0.0, 1.0], ["a", "b"])
    assert np.isnan([constant.value, constant.low, constant.high]).all()


def test_a_rule_of_two_predicts_what_neither_does_alone() -> None:
    first, second = RNG.random(400), RNG.random(400)
    outcome = np.minimum(first, second)
    groups = [f"vector {i % 8}" for i in range(400)]
    alone = score_predictor(list(first), list(outcome), groups, 0.5)
    rule = score_rule([list(first), list(second)], [0.5, 0.5], list(outcome), groups, 0.5)
    assert (rule.fixed, rule.alarms, rule.false_alarms) == (1.0, 1.0, 0.0)
    assert rule.accuracy > 0.95 > alone.accuracy + 0.05
    # a rule that never warns is chance, and one that always does too
    for thresholds in ([-1.0, -1.0], [2.0, 2.0]):
        constant = score_rule([list(first), list(second)], thresholds, list(outcome), groups, 0.5)
        assert constant.fixed == 0.5
        assert constant.alarms == constant.false_alarms == (thresholds[0] > 1)


def test_a_rule_on_noise_predicts_nothing() -> None:
    scores = [
        score_rule(
            list(np.random.default_rng(i).random((2, 60))), [0.3, 0.3], list(OUTCOME), GROUPS, 0.5
        ).accuracy
        for i in range(20)
    ]
    assert abs(np.mean(scores) - 0.5) < 0.07


@pytest.mark.parametrize(
    ("predictors", "thresholds", "named"),
    [
        ([[1.0] * 60], [0.0], "two predictors"),
        ([[1.0] * 60] * 2, [0.0], "1 thresholds"),
        ([[float("nan")] * 60] * 2, [0.0, 0.0], "finite"),
    ],
)
def test_invalid_rules(predictors: list[list[float]], thresholds: list[float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        score_rule(predictors, thresholds, list(OUTCOME), GROUPS, 0.5)
