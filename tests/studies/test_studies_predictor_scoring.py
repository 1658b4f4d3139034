"""A predictor that tells, one that does not, and one that tells in its own group alone."""

import numpy as np
import pytest

from studies.predictor_scoring import rule_telling, telling

RNG = np.random.default_rng(0)
OUTCOME = RNG.random(60)
GROUPS = [f"vector {i % 6}" for i in range(60)]


def test_a_predictor_that_is_the_outcome_tells_all() -> None:
    found = telling(list(3 * OUTCOME - 7), list(OUTCOME), GROUPS, bar=0.5)
    assert found.spearman == pytest.approx(1.0)
    assert found.within == pytest.approx(1.0)
    # thresholds lie halfway between values of the other groups, so a row next to one may fall either side
    assert found.accuracy > 0.93
    assert found.threshold == pytest.approx(3 * 0.5 - 7, abs=0.1)


def test_noise_tells_nothing() -> None:
    scores = [
        telling(list(np.random.default_rng(i).random(60)), list(OUTCOME), GROUPS, 0.5) for i in range(40)
    ]
    assert abs(np.mean([s.spearman for s in scores])) < 0.05
    assert abs(np.mean([s.accuracy for s in scores]) - 0.5) < 0.06


def test_a_threshold_that_holds_in_one_group_alone_is_worth_nothing_elsewhere() -> None:
    # each group has a level of its own, far from the others': right order within, no common threshold
    level = {name: 100.0 * i for i, name in enumerate(sorted(set(GROUPS)))}
    predictor = [level[g] + y for g, y in zip(GROUPS, OUTCOME, strict=True)]
    found = telling(predictor, list(OUTCOME), GROUPS, 0.5)
    assert found.within == pytest.approx(1.0)
    assert found.accuracy < 0.65


def test_ties_share_their_rank() -> None:
    found = telling([1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], ["a", "b", "a", "b"], 0.5)
    assert found.spearman == pytest.approx(1.0)
    assert found.accuracy == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([1.0], [1.0, 0.0], ["a", "b"]), "lengths differ: 1 predictions, 2 outcomes, 2 groups"),
        (([1.0, 2.0], [1.0, 0.0], ["a", "a"]), "at least two, got \\['a'\\]"),
        (([1.0, float("nan")], [1.0, 0.0], ["a", "b"]), "must be finite"),
        (([1.0, 2.0], [1.0, 0.9], ["a", "b"]), "one side of 0.5"),
    ],
)
def test_what_cannot_be_scored(given: tuple[list[float], list[float], list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        telling(*given, 0.5)


def test_a_rule_of_two_tells_what_neither_does_alone() -> None:
    first, second = RNG.random(400), RNG.random(400)
    outcome = np.minimum(first, second)
    groups = [f"vector {i % 8}" for i in range(400)]
    alone = telling(list(first), list(outcome), groups, 0.5)
    rule = rule_telling([list(first), list(second)], [0.5, 0.5], list(outcome), groups, 0.5)
    assert (rule.fixed, rule.alarms, rule.false_alarms) == (1.0, 1.0, 0.0)
    assert rule.accuracy > 0.95 > alone.accuracy + 0.05
    # a rule that never warns is a coin, and one that always does too
    for thresholds in ([-1.0, -1.0], [2.0, 2.0]):
        coin = rule_telling([list(first), list(second)], thresholds, list(outcome), groups, 0.5)
        assert coin.fixed == 0.5
        assert coin.alarms == coin.false_alarms == (thresholds[0] > 1)


def test_a_rule_on_noise_tells_nothing() -> None:
    scores = [
        rule_telling(
            list(np.random.default_rng(i).random((2, 60))), [0.3, 0.3], list(OUTCOME), GROUPS, 0.5
        ).accuracy
        for i in range(20)
    ]
    assert abs(np.mean(scores) - 0.5) < 0.07


@pytest.mark.parametrize(
    ("predictors", "thresholds", "said"),
    [
        ([[1.0] * 60], [0.0], "a rule is of two predictors"),
        ([[1.0] * 60] * 2, [0.0], "1 thresholds"),
        ([[float("nan")] * 60] * 2, [0.0, 0.0], "must be finite"),
    ],
)
def test_a_rule_that_cannot_be_scored(
    predictors: list[list[float]], thresholds: list[float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        rule_telling(predictors, thresholds, list(OUTCOME), GROUPS, 0.5)
