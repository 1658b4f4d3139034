from collections.abc import Callable

import numpy as np
import pytest

from lrt.evaluation.dose import EffectCurve, NativeDose
from lrt.evaluation.statistics import Array

STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
ITEMS = 40


def curve(
    effect: Callable[[Array], Array],
    *,
    direction: int = 1,
    strengths: tuple[float, ...] = STRENGTHS,
    noise: float = 0.0,
    seed: int = 1,
    **damage: object,
) -> EffectCurve:
    """A curve whose mean effect is known, with scores of different items that start at different values."""
    rng = np.random.default_rng(seed)
    base = np.linspace(-2, 2, ITEMS)
    means = effect(np.array(strengths))
    scores = base + direction * means[:, None] + noise * rng.normal(size=(len(strengths), ITEMS))
    scores[0] = base
    return EffectCurve.of(scores, strengths, direction, **damage)  # type: ignore[arg-type]


def linear(slope: float) -> Callable[[Array], Array]:
    return lambda s: slope * s


def saturating(scale: float) -> Callable[[Array], Array]:
    """At its maximum of 1 from a strength of `scale` on."""
    return lambda s: np.minimum(s / scale, 1.0)


def measure_of(native: EffectCurve, **options: object) -> NativeDose:
    measure = NativeDose.of(native, float(native.strengths[-1]), **options)  # type: ignore[arg-type]
    assert measure is not None
    return measure


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("k", [1.5, 1.0, 0.7, 0.5])
def test_a_native_vector_at_a_fraction_of_the_strength_has_that_dose_ratio(k: float, direction: int) -> None:
    native = measure_of(curve(linear(2.0), direction=direction))
    weaker = curve(linear(2.0 * k), direction=direction)
    dose, share = native.ratio(weaker), native.share(weaker)
    assert share is not None
    assert (dose.value, dose.low, dose.high) == pytest.approx((k, k, k))
    assert dose.below is None
    assert (share.value, share.low, share.high) == pytest.approx((k, k, k))


def test_curves_that_saturate_alike_differ_by_dose() -> None:
    """Both have all of the effect at .8, where a ratio at one strength is 1."""
    native, weaker = curve(saturating(0.2)), curve(saturating(0.2 / 0.3), strengths=STRENGTHS)
    at = STRENGTHS.index(0.8)
    assert weaker.effects[at].mean() / native.effects[at].mean() == pytest.approx(1.0)
    measure = measure_of(native)
    assert measure.ratio(weaker).value == pytest.approx(0.3, abs=0.01)
    share = measure.share(weaker)
    assert share is not None
    # a triangle up to .2 and up to .667, then 1
    assert share.value == pytest.approx((1 - 0.667 / 2) / (1 - 0.1), abs=0.02)


def test_an_effect_that_is_not_reached_has_a_bound() -> None:
    native = measure_of(curve(linear(1.0)))
    dose = native.ratio(curve(linear(0.3)))
    assert dose.value is None
    assert dose.below == pytest.approx(0.5)  # .5 of native over all of the grid
    assert dose.low == 0
    assert dose.high == pytest.approx(0.5)
    share = native.share(curve(linear(0.3)))
    assert share is not None
    assert share.value == pytest.approx(0.3)
    nothing = native.ratio(curve(linear(0.0)))
    against = native.ratio(curve(linear(-1.0)))
    assert nothing == against
    share_against = native.share(curve(linear(-1.0)))
    assert share_against is not None
    assert share_against.value == pytest.approx(-1.0)


def test_an_effect_that_some_samples_reach_has_an_interval_down_to_zero() -> None:
    native = measure_of(curve(linear(1.0)))
    barely = native.ratio(curve(linear(0.51), noise=0.5))
    assert barely.low == 0
    assert barely.high >= 0.5


def test_intervals_cover_the_planted_dose_ratio() -> None:
    covered = 0
    for seed in range(30):
        native = measure_of(curve(saturating(0.3), noise=0.4, seed=seed))
        dose = native.ratio(curve(saturating(0.5), noise=0.4, seed=1000 + seed))
        assert dose.value is not None
        assert dose.low <= dose.value <= dose.high
        covered += dose.low <= 0.6 <= dose.high
    assert covered >= 25


def test_the_difference_is_paired_and_honest_about_bounds() -> None:
    native = measure_of(curve(linear(1.0)))
    full, weak, absent = curve(linear(0.9)), curve(linear(0.6)), curve(linear(0.1))
    assert native.difference(full, [weak]) == pytest.approx((0.3, 0.3))
    # the other is anywhere from 0 to its bound of .5
    assert native.difference(full, [absent]) == pytest.approx((0.4, 0.9))
    assert native.difference(absent, [absent]) == pytest.approx((-0.5, 0.5))


@pytest.mark.parametrize("scale", [0.4, 1.6])  # reached by all samples; by about half of them
def test_two_vectors_alike_are_seldom_taken_for_different(scale: float) -> None:
    above = below = 0
    for seed in range(40):
        native = measure_of(curve(saturating(0.3), noise=0.3, seed=seed))
        one, other = (curve(saturating(scale), noise=0.3, seed=1000 * i + seed) for i in (1, 2))
        low, high = native.difference(one, [other])
        above, below = above + (low > 0), below + (high < 0)
    assert above <= 4
    assert below <= 4


def test_a_curve_ends_at_its_damage_limit() -> None:
    harmless = tuple(0.01 * s for s in STRENGTHS)
    native = measure_of(curve(linear(1.0), damages=harmless, limit=0.1))
    assert native.level[0] == pytest.approx(0.5)
    # reaches .1 at strength .35, where its effect is .35: half of the native one is never reached
    harmful = curve(linear(1.0), damages=tuple(s * 0.1 / 0.35 for s in STRENGTHS), limit=0.1)
    assert harmful.strengths[-1] == pytest.approx(0.35)
    dose, share = native.ratio(harmful), native.share(harmful)
    assert dose.value is None
    assert dose.below == pytest.approx(0.5)
    assert native.difference(curve(linear(0.9)), [harmful])[0] > 0
    assert share is not None
    assert share.value == pytest.approx((0.35**2 / 2 + 0.65 * 0.35) / 0.5)
    # the native vector's own limit halves what it is asked for
    limited = NativeDose.of(harmful, 1.0)
    assert limited is not None
    assert limited.level[0] == pytest.approx(0.175)
    assert limited.ratio(curve(linear(0.5))).value == pytest.approx(0.5)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_damage_that_is_not_finite_ends_a_curve(broken: float) -> None:
    damages = (*(0.0 for _ in STRENGTHS[:-1]), broken)
    assert curve(linear(1.0), damages=damages, limit=0.1).strengths[-1] == pytest.approx(0.8, abs=1e-6)


def test_shares_that_are_ablated_are_strengths_too() -> None:
    fractions = (0.0, 0.25, 0.5, 0.75, 1.0)
    native = measure_of(curve(linear(1.0), strengths=fractions, direction=-1))
    late = curve(lambda s: np.maximum(2 * s - 1, 0.0), strengths=fractions, direction=-1)
    assert native.ratio(late).value == pytest.approx(0.5 / 0.75)


@pytest.mark.parametrize("keys", [None, ["A", "B"] * (ITEMS // 2)])
def test_a_native_vector_that_does_not_steer_measures_nothing(keys: list[str] | None) -> None:
    assert NativeDose.of(curve(linear(0.0)), 1.0, keys=keys) is None
    assert NativeDose.of(curve(linear(-1.0)), 1.0, keys=keys) is None
    assert NativeDose.of(curve(linear(0.01), noise=5.0), 1.0, keys=keys) is None
    assert NativeDose.of(curve(linear(1.0), noise=0.5), 1.0, keys=keys) is not None


def test_the_first_strength_that_reaches_the_effect_counts() -> None:
    native = measure_of(curve(linear(1.0)))
    falls_again = curve(lambda s: np.where(s <= 0.6, s, 0.6 - (s - 0.6)))
    assert native.ratio(falls_again).value == pytest.approx(1.0)


def test_strengths_must_rise_from_zero() -> None:
    with pytest.raises(ValueError, match="rise from 0"):
        curve(linear(1.0), strengths=(-1.0, 0.0, 1.0))
