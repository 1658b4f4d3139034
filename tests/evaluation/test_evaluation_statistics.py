import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lrt.evaluation.statistics import (
    Estimate,
    anti_steerable,
    key_shift,
    mean_estimate,
    null_share,
    paper_statistics,
    pearson,
    ratio_estimate,
    ratio_over_refits,
    resamples,
    slopes,
    without_key_shift,
)

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
KEYS = ["A", "B"] * 50


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = {"mean": 0, "ratio": 0}
    worlds = 150
    for _ in range(worlds):
        native = rng.normal(1.0, 0.7, 50)
        change = 0.8 * native + rng.normal(0, 0.2, 50)
        mean = mean_estimate(native)
        ratio = ratio_estimate(change, native)
        assert ratio is not None
        covered["mean"] += mean.low <= 1.0 <= mean.high
        covered["ratio"] += ratio.low <= 0.8 <= ratio.high
    for hits in covered.values():
        assert 0.87 <= hits / worlds <= 0.99


def test_the_ratio_is_paired() -> None:
    native = np.random.default_rng(1).normal(1.0, 2.0, 200)
    exact = ratio_estimate(0.8 * native, native)
    assert exact is not None
    assert (exact.low, exact.high) == pytest.approx((0.8, 0.8))
    shuffled = ratio_estimate(0.8 * np.random.default_rng(2).permutation(native), native)
    assert shuffled is not None
    assert shuffled.value == pytest.approx(0.8)
    assert shuffled.high - shuffled.low > 0.2


def test_there_is_no_ratio_over_nothing() -> None:
    rng = np.random.default_rng(3)
    assert ratio_estimate(np.ones(60), rng.normal(0, 1, 60)) is None
    assert ratio_estimate(np.ones(60), np.zeros(60)) is None
    down = ratio_estimate(-np.ones(60), np.full(60, -2.0))
    assert down is not None
    assert down.value == 0.5


@pytest.mark.parametrize("draws", [2, 12])
def test_two_refits_cover_as_often_as_twelve_though_all_are_worse_maps(draws: int) -> None:
    rng = np.random.default_rng(4)
    covered, worlds, apart = 0, 200, 0.05
    for seed in range(worlds):
        native = rng.normal(1.0, 0.05, 40)
        fitted = 0.8 + apart * rng.normal()  # by these documents; 0.8 by all there are
        refits = fitted - 0.15 + apart * rng.normal(size=draws)
        estimate = ratio_over_refits(
            fitted * native, native, (np.outer(refits, native), np.tile(native, (draws, 1))), seed
        )
        assert estimate is not None
        assert estimate.value == pytest.approx(fitted)
        covered += estimate.low <= 0.8 <= estimate.high
    assert 0.91 <= covered / worlds <= 0.985


def test_refits_that_agree_leave_the_interval_over_items() -> None:
    rng = np.random.default_rng(5)
    native = rng.normal(1.0, 0.4, 60)
    change = 0.7 * native + rng.normal(0, 0.2, 60)
    same = np.tile(change, (3, 1)), np.tile(native, (3, 1))
    assert ratio_over_refits(change, native, same) == ratio_estimate(change, native)
    assert ratio_over_refits(change, native, (same[0][:1], same[1][:1])) is None
    assert ratio_over_refits(change, native, (same[0], 0 * same[1])) is None


def test_off_zero() -> None:
    assert Estimate(1, 0.1, 2).off_zero
    assert Estimate(-1, -2, -0.1).off_zero
    assert not Estimate(0.1, -0.1, 2).off_zero
    assert Estimate(1, 0.1, 2).to_list() == [0.1, 2]


def test_resamples_are_seeded_and_drawn_with_replacement() -> None:
    one = resamples(10, seed=4, draws=30)
    assert one.shape == (30, 10)
    assert np.array_equal(one, resamples(10, seed=4, draws=30))
    assert not np.array_equal(one, resamples(10, seed=5, draws=30))
    assert any(len(set(row)) < 10 for row in one.tolist())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=12))
def test_pearson_is_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T.round(3)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-6)


def test_pearson_of_what_does_not_vary_is_no_number() -> None:
    assert np.isnan(pearson(np.ones(4), np.arange(4.0)))


def test_the_papers_statistics_at_zero_are_one_by_construction() -> None:
    base = np.random.default_rng(0).normal(size=50)  # the same model under both
    up, down = (np.array([base + sign * s for s in STRENGTHS]) for sign in (1, -1))
    at = paper_statistics(up, down)
    assert at[2] == {"r": pytest.approx(1), "mse": 0}
    assert at[0]["mse"] == pytest.approx(4)


def test_slopes_are_planted_ones() -> None:
    planted = np.array([2.0, -1.0, 0.5, 3.0])
    m = np.array([7 + s * planted for s in STRENGTHS])
    assert slopes(m, STRENGTHS) == pytest.approx(planted)
    fitted = [np.polyfit(STRENGTHS, column, 1)[0] for column in (m**2).T]
    assert slopes(m**2, STRENGTHS) == pytest.approx(fitted)
    assert anti_steerable(m, STRENGTHS).tolist() == [0, 1, 0, 0]
    assert anti_steerable(m, STRENGTHS, direction=-1).tolist() == [1, 0, 1, 1]


def test_a_shift_of_one_answer_is_not_taken_for_a_trait() -> None:
    """A vector that moves Yes up whatever the question by 2, and the trait by .1 on every item."""
    rng = np.random.default_rng(5)
    keys = ["Yes", "No"] * 20
    shift = np.array([2.0 if key == "Yes" else -2.0 for key in keys])
    change = shift + 0.1 + rng.normal(0, 0.1, 40)
    assert not mean_estimate(change).off_zero  # draws that hold more of one key
    within = mean_estimate(change, keys=keys)
    assert within.off_zero
    assert 0 < within.low < within.value < within.high < 0.2
    assert ratio_estimate(0.5 * change, change) is None
    ratio = ratio_estimate(0.5 * change, change, keys=keys)
    assert ratio is not None
    assert ratio.to_list() == pytest.approx([0.5, 0.5])
    assert key_shift(change, keys) == pytest.approx(2.0, abs=0.1)
    assert key_shift(change, [""] * 40) == 0
    assert without_key_shift(change, keys).mean() == pytest.approx(change.mean())
    m = np.array([s * change for s in STRENGTHS])
    assert anti_steerable(m, STRENGTHS).mean() == 0.5  # all of one key
    assert anti_steerable(m, STRENGTHS, keys=keys).mean() < 0.35


def test_a_trait_of_nothing_is_nothing_within_the_keys_too() -> None:
    keys, covered = ["Yes", "No"] * 20, 0
    for world in range(100):
        noise = np.random.default_rng(world).normal(0, 0.3, 40)
        change = noise + [1.5 if key == "Yes" else -1.5 for key in keys]
        covered += not mean_estimate(change, keys=keys).off_zero
    assert 88 <= covered <= 99


@given(st.lists(st.sampled_from("AB"), min_size=2, max_size=30), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_as_many_of_each_key_are_drawn_as_there_are(keys: list[str], seed: int) -> None:
    drawn = np.asarray(keys)[resamples(len(keys), seed, draws=20, keys=keys)]
    if min(keys.count("A"), keys.count("B")) >= 2:
        assert {row.tolist().count("A") for row in drawn} == {keys.count("A")}
    else:
        assert np.array_equal(
            resamples(len(keys), seed, draws=20, keys=keys), resamples(len(keys), seed, draws=20)
        )


def test_null_share() -> None:
    share = null_share(np.array([0.1, -0.3, 0.2]), -2.0)
    assert share["mean"] == pytest.approx(0.1)
    assert share["p95"] == pytest.approx(np.percentile([0.05, 0.15, 0.1], 95))
    assert share["draws"] == 3
