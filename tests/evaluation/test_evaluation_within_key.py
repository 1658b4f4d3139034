import numpy as np
import pytest

from lrt.evaluation.statistics import Array, Estimate, paper_statistics
from lrt.evaluation.within_key import (
    agreement_ceiling,
    mean_stratified_estimate,
    partial_correlation,
    stratified_correlation,
    stratified_estimate,
    within_key_change,
)

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
KEYS = ["A", "B"] * 50


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
