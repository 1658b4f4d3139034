"""Nulls of a planted cosine with the native vector, in a world where effects are known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_behaviours import text_behaviour

from lrt.evaluation import Behaviour, Damage, Item, Measurement, StrengthChoice, StrengthGrid, Study
from lrt.evaluation.null_causes import null_causes, strong_nulls

TEXT = replace(text_behaviour(), test=tuple(Item(f"{number} went home.") for number in range(24)))
LOWERS, ABLATES = replace(TEXT, direction=-1), replace(TEXT, operation="ablate")
GRID = StrengthGrid((-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0), damage_limit=0.1)
FRACTIONS = StrengthGrid((0.0, 0.25, 0.5, 0.75, 1.0), damage_limit=0.1)
CHOSEN = 0.75


def saturating(strength: float) -> float:
    """What the native vector does at a strength."""
    return 2 * math.tanh(2 * strength)


def study_of(
    changes: dict[str, Sequence[float]],
    *,
    behaviour: Behaviour = TEXT,
    grid: StrengthGrid = GRID,
    native: Callable[[float], float] = saturating,
    noise: float = 0.0,
    damage: float = 0.0,
) -> Study:
    """A study whose nulls have these changes at the chosen strength, by draw."""
    rng = np.random.default_rng(0)
    rows = []

    def add(condition: str, strength: float, change: float, draw: int = 0) -> None:
        for index, item in enumerate(behaviour.test):
            value = index / 10 + behaviour.direction * change + noise * rng.normal()
            rows.append(
                Measurement(behaviour.name, "test", condition, draw, strength, item.id, item.key, value)
            )

    add("none", 0.0, 0.0)
    for strength in grid.strengths:
        if strength:
            add("native", strength, native(strength))
    for name, draws in changes.items():
        for draw, change in enumerate(draws):
            add(name, CHOSEN, change, draw)
    damages = [Damage(behaviour.name, name, 0, CHOSEN, 2 + 2 * damage, 2 * damage, 0.0) for name in changes]
    return Study(behaviour.name, StrengthChoice(CHOSEN, 2.0, False, 4), tuple(rows), tuple(damages))


def cause_of(name: str, changes: Sequence[float], cosines: Sequence[float], **options: Any) -> dict[str, Any]:
    behaviour, grid = options.get("behaviour", TEXT), options.get("grid", GRID)
    causes = null_causes(behaviour, study_of({name: changes}, **options), grid, [name], {name: cosines})
    assert list(causes) == [name]
    return causes[name]


def at(strength: float, grid: StrengthGrid = GRID) -> float:
    """The native effect at a strength, between measured ones as interpolated."""
    measured = [saturating(s) for s in grid.strengths]
    return float(np.interp(strength, grid.strengths, measured))


@pytest.mark.parametrize("behaviour", [TEXT, LOWERS], ids=["raises", "lowers"])
@pytest.mark.parametrize("cosine", [0.9, 0.4, -0.6])
def test_a_null_that_does_what_its_component_does_is_aligned(cosine: float, behaviour: Behaviour) -> None:
    effect = at(CHOSEN * cosine)
    cause = cause_of("other", [effect], [cosine], behaviour=behaviour)
    assert cause["cause"] == "alignment"
    share = abs(effect) / saturating(CHOSEN)
    assert (cause["share"], cause["predicted"], cause["explained"]) == pytest.approx((share, share, 1.0))
    assert cause["rest"] == pytest.approx(0.0)
    assert (cause["cosine"], cause["projection"]) == pytest.approx((cosine, cosine**2))


def test_an_effect_of_the_rest_is_the_nulls_own() -> None:
    """Orthogonal to the native vector and yet steering, as a bias that holds the behaviour elsewhere."""
    cause = cause_of("bias", [-0.9], [0.02])
    assert cause["cause"] == "own effect"
    assert cause["rest"] == pytest.approx((0.9 + at(0.015)) / saturating(CHOSEN))
    assert cause["rest_ci"][1] < 0
    assert cause["explained"] < 0


def test_a_component_that_would_do_the_opposite_explains_nothing() -> None:
    assert cause_of("other", [1.0], [-0.7])["cause"] == "own effect"


def test_a_null_over_the_damage_limit_steers_by_damage() -> None:
    assert cause_of("shuffled", [1.0], [0.05], damage=0.3)["cause"] == "damage"
    # what its component explains is no damage
    assert cause_of("shuffled", [at(0.6 * CHOSEN)], [0.6], damage=0.3)["cause"] == "alignment"


def test_a_mean_size_that_is_noise_alone_is_no_effect() -> None:
    """The mean of sizes over draws is above zero though every draw has none."""
    cause = cause_of("random", [0.0] * 6, [0.02] * 6, noise=1.0)
    assert cause["share"] > 0.05
    assert cause["cause"] == "noise"


def test_several_draws_of_either_sign_count_each_by_its_own_cosine() -> None:
    cosines = [0.5, -0.5, 0.3]
    cause = cause_of("shuffled", [at(CHOSEN * c) for c in cosines], cosines)
    assert cause["cause"] == "alignment"
    assert cause["explained"] == pytest.approx(1.0)
    turned = cause_of("shuffled", [-at(CHOSEN * c) for c in cosines], cosines)
    assert turned["cause"] == "own effect"


@pytest.mark.parametrize("cosine", [0.8, -0.8])
def test_of_an_ablated_direction_the_squared_cosine_is_removed(cosine: float) -> None:
    effect = at(CHOSEN * cosine**2, FRACTIONS)
    cause = cause_of("other", [effect], [cosine], behaviour=ABLATES, grid=FRACTIONS)
    assert cause["explained"] == pytest.approx(1.0)


def test_beyond_the_native_curve_nothing_is_predicted() -> None:
    positive = StrengthGrid((0.0, 0.25, 0.5, 0.75, 1.0), damage_limit=0.1)
    cause = cause_of("other", [-1.0], [-0.6], grid=positive)
    assert cause["cause"] == "unknown"
    assert "predicted" not in cause


def test_only_nulls_above_a_small_share_are_looked_into() -> None:
    assert strong_nulls({"nulls": {"random": 0.1, "bias": 0.48, "other": 0.21}}) == ["bias", "other"]
    assert strong_nulls({"nulls": {}}) == []
