import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lrt.evaluation.statistics import (
    Array,
    Estimate,
    agreement_ceiling,
    anti_steerable,
    key_shift,
    mean_estimate,
    mean_stratified_estimate,
    null_share,
    paper_statistics,
    partial_correlation,
    pearson,
    ratio_estimate,
    ratio_over_refits,
    resamples,
    slopes,
    stratified_correlation,
    stratified_estimate,
    within_key_change,
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


def world(shift: float, item: Array | None = None, noise: float = 0.05, seed: int = 0) -> Array:
    """`m [strengths, items]`: a vector that moves letter A's logit by `shift` a unit of strength,
    and each item by its own `item` besides."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(99).normal(0, 0.3, len(KEYS))  # the same model under both
    sign = np.array([1.0 if key == "A" else -1.0 for key in KEYS])
    own = np.zeros(len(KEYS)) if item is None else item
    return np.array([base + s * (shift * sign + own + noise * rng.normal(size=len(KEYS))) for s in STRENGTHS])


def test_a_letter_shift_fools_the_papers_r_and_not_the_stratified_one() -> None:
    native = world(3.0, seed=1)
    paper, stratified = [], []
    for draw in range(20):
        shift = np.random.default_rng(draw).choice([-1, 1]) * 2.0
        unrelated = world(shift, seed=100 + draw)
        at = paper_statistics(unrelated, native)
        paper.append(min(abs(row["r"]) for s, row in zip(STRENGTHS, at, strict=True) if s))
        stratified.append(abs(stratified_correlation(unrelated, native, STRENGTHS, KEYS)))
    assert min(paper) > 0.9
    assert np.mean(stratified) < 0.15


def test_agreement_item_by_item_is_found_under_any_letter_shift() -> None:
    item = np.random.default_rng(7).normal(0, 0.5, len(KEYS))
    ours, native = world(2.0, item, seed=1), world(-3.0, item, seed=2)
    assert stratified_correlation(ours, native, STRENGTHS, KEYS) > 0.95
    assert partial_correlation(ours, native, STRENGTHS, KEYS) > 0.9
    assert paper_statistics(ours, native)[-1]["r"] < 0  # the letter decides there
    assert stratified_correlation(-ours, native, STRENGTHS, KEYS) < -0.95


def test_what_only_follows_the_start_is_partialled_out() -> None:
    rng = np.random.default_rng(8)
    base = rng.normal(0, 1, len(KEYS))
    # both pull every item towards 0 from wherever it started, and agree on nothing else
    ours, native = (
        np.array([base * (1 - 0.5 * abs(s)) + s * 0.05 * rng.normal(size=len(KEYS)) for s in STRENGTHS])
        for _ in range(2)
    )
    assert stratified_correlation(ours, native, STRENGTHS, KEYS) > 0.9
    assert abs(partial_correlation(ours, native, STRENGTHS, KEYS)) < 0.25


def test_within_key_change_has_no_mean_in_any_key() -> None:
    m = world(2.0, seed=3)
    change = within_key_change(m, STRENGTHS, KEYS)
    assert change.shape == (4, len(KEYS))
    for key in "AB":
        inside = [k == key for k in KEYS]
        assert np.abs(change[:, inside].mean(axis=1)).max() < 1e-12
    assert np.allclose(within_key_change(m + 5, STRENGTHS, KEYS), change)
    keyless = within_key_change(m, STRENGTHS, [""] * len(KEYS))
    assert np.abs(keyless - change).max() > 1


def test_the_papers_statistics_at_zero_are_one_by_construction() -> None:
    at = paper_statistics(world(1.0, seed=1), world(-1.0, seed=2))
    assert at[2] == {"r": pytest.approx(1), "mse": 0}
    assert at[0]["mse"] == pytest.approx(4, rel=0.1)


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


def planted_curves(items: int, noise: float, seed: int) -> tuple[Array, Array, list[str]]:
    """Two conditions whose within-key changes share a part of variance 1 and have noise of their own; the
    answer keys are pushed apart in both."""
    rng = np.random.default_rng(seed)
    keys = [str(k) for k in rng.integers(0, 2, items)]
    push = np.array([5.0 if key == "0" else -5.0 for key in keys])
    steps = np.array(STRENGTHS)[:, None]
    shared = rng.normal(size=items)
    ours, native = (
        rng.normal(size=items) + steps * (push + shared + noise * rng.normal(size=items)) for _ in range(2)
    )
    return ours, native, keys


def test_the_interval_of_the_stratified_correlation_covers_what_was_planted() -> None:
    noise, worlds, covered = 0.7, 120, 0
    truth = 1 / (1 + noise**2)
    for world in range(worlds):
        estimate = stratified_estimate(*planted(world, noise))
        covered += estimate.low <= truth <= estimate.high
    assert 0.87 <= covered / worlds <= 0.99


def planted(seed: int, noise: float) -> tuple[Array, Array, tuple[float, ...], list[str]]:
    ours, native, keys = planted_curves(60, noise, seed)
    return ours, native, STRENGTHS, keys


def test_the_stratified_estimate_is_the_correlation_and_its_samples_are_too() -> None:
    ours, native, strengths, keys = planted(0, 0.7)
    estimate = stratified_estimate(ours, native, strengths, keys)
    assert estimate.value == stratified_correlation(ours, native, strengths, keys)
    assert estimate.low < estimate.value < estimate.high
    # by hand: items drawn within their keys, and the statistic made anew
    rng, groups = np.random.default_rng(1), np.asarray(keys)
    sides = [np.flatnonzero(groups == key) for key in ("0", "1")]
    drawn = [np.concatenate([rng.choice(side, len(side)) for side in sides]) for _ in range(1500)]
    by_hand = [stratified_correlation(ours[:, i], native[:, i], strengths, list(groups[i])) for i in drawn]
    assert [estimate.low, estimate.high] == pytest.approx(np.percentile(by_hand, [2.5, 97.5]), abs=0.02)
    assert stratified_estimate(ours, native, strengths, keys) == estimate
    same = stratified_estimate(native, native, strengths, keys)
    assert [same.value, same.low, same.high] == pytest.approx([1, 1, 1])


def test_an_estimate_of_what_does_not_vary_is_no_number() -> None:
    still = np.ones((len(STRENGTHS), 4))
    estimate = stratified_estimate(still, still, STRENGTHS, ["A", "B", "A", "B"])
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_the_ceiling_holds_where_vectors_of_the_same_prompts_share_their_noise() -> None:
    """Native and transferred vectors of the same prompts share what is of these prompts alone, so they agree
    by more than native vectors of two sets of prompts do. Across prompts the ceiling holds."""
    rng = np.random.default_rng(0)
    items, strengths = 800, (0.0, 1.0)
    keys = ["A", "B"] * (items // 2)
    truth = rng.normal(size=items)
    of_prompts = rng.normal(scale=2.0, size=(2, items))  # of either half of the prompts
    native = [np.array([0 * truth, truth + noise]) for noise in of_prompts]
    ours = [np.array([0 * truth, truth + 0.5 * noise]) for noise in of_prompts]  # a map that denoises

    halves = mean_stratified_estimate([(native[0], native[1])], strengths, keys)
    ceiling = agreement_ceiling(halves)
    same = stratified_correlation(ours[0], native[0], strengths, keys)
    across = mean_stratified_estimate([(ours[i], native[1 - i]) for i in (0, 1)], strengths, keys)
    assert halves.value == pytest.approx(0.2, abs=0.08)  # 1 / (1 + 4)
    assert across.value == pytest.approx(1 / np.sqrt(2 * 5), abs=0.08)
    assert same > ceiling.value > across.value > halves.value
    assert ceiling.low <= ceiling.value <= ceiling.high


def test_halves_that_do_not_agree_have_a_ceiling_of_zero() -> None:
    assert agreement_ceiling(Estimate(-0.4, -0.6, 0.09)) == Estimate(0.0, 0.0, pytest.approx(0.3))


def test_a_mean_over_pairs_is_of_those_that_vary() -> None:
    rng = np.random.default_rng(1)
    keys, strengths = ["A"] * 5 + ["B"] * 5, (0.0, 1.0)
    a, b = (np.array([np.zeros(10), rng.normal(size=10)]) for _ in range(2))
    flat = np.zeros((2, 10))
    one = mean_stratified_estimate([(a, b)], strengths, keys)
    assert mean_stratified_estimate([(a, b), (flat, b)], strengths, keys) == one
    assert one == stratified_estimate(a, b, strengths, keys)
    both = mean_stratified_estimate([(a, b), (a, a)], strengths, keys)
    assert both.value == pytest.approx((one.value + 1) / 2)
    assert np.isnan(mean_stratified_estimate([(flat, b)], strengths, keys).value)
