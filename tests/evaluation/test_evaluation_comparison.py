import math
from dataclasses import replace
from typing import Any

import pytest
from planted_studies import CHANGES, GRID, planted_study
from small_behaviours import choice_behaviour, text_behaviour

from lrt.evaluation import Behaviour, Damage, summarise

TEXT, CHOICE = text_behaviour(), choice_behaviour(test=4)
ABLATES = replace(TEXT, operation="ablate")
LOWERS = replace(TEXT, direction=-1)


def summary_of(behaviour: Behaviour = TEXT, **options: Any) -> dict[str, Any]:
    return summarise(behaviour, planted_study(behaviour, **{"refits": (1.6, 1.6), **options}), GRID)


@pytest.mark.parametrize(
    "behaviour", [TEXT, CHOICE, ABLATES, LOWERS], ids=["text", "choice", "ablates", "lowers"]
)
def test_dose_ratios_and_curve_shares_are_the_planted_ones(behaviour: Behaviour) -> None:
    sign = behaviour.direction
    changes = {name: sign * change for name, change in CHANGES.items()}
    summary = summary_of(behaviour, changes=changes, curves={"untrained_source": (sign * 1.2,)})
    dose = summary["dose"]
    # the native vector has 2 at strength 1, so half at .5
    assert (dose["effect"], dose["native_strength"], dose["largest_strength"]) == pytest.approx(
        (1.0, 0.5, 1.0)
    )
    transferred, untrained = (dose["conditions"][name] for name in ("transferred", "untrained_source"))
    assert transferred["ratio"] == pytest.approx(0.8)
    assert transferred["share"] == pytest.approx(0.8)
    assert untrained["ratio"] == pytest.approx(0.6)
    assert untrained["share_ci"] == pytest.approx([0.6, 0.6])
    assert dose["above_untrained"] == pytest.approx([0.2, 0.2])
    assert summary["verdict"] == "transferred"
    random = dose["conditions"]["random"]
    assert (random["ratio"], random["below"]) == (None, pytest.approx(0.5))
    assert list(dose["conditions"]) == [
        "transferred",
        "untrained_source",
        "random",
    ]  # the others have no curve


def test_several_draws_count_by_their_mean() -> None:
    shuffled = summary_of(curves={"shuffled": (1.0, -1.0)})["dose"]["conditions"]["shuffled"]
    assert shuffled["share"] == pytest.approx(0.0)


@pytest.mark.parametrize("draws", [(0.4, 1.4), (1.4, 0.4), (0.1, 1.4, -1.0)])
def test_the_strongest_untrained_source_stands_for_all(draws: tuple[float, ...]) -> None:
    whole = planted_study(TEXT, curves={"untrained_source": draws}, refits=(1.6, 1.6))
    strongest = draws.index(1.4)
    broken = [
        Damage(TEXT.name, "untrained_source", draw, s, 2 + 0.01 * draw * s, 0.01 * draw * s, 0.1)
        for draw in range(len(draws))
        for s in (0.5, 1.0)
    ]
    summary = summarise(TEXT, replace(whole, damages=(*whole.damages, *broken)), GRID)
    dose = summary["dose"]
    untrained = dose["conditions"]["untrained_source"]
    assert (untrained["ratio"], untrained["share"]) == pytest.approx((0.7, 0.7))
    assert dose["above_untrained"] == pytest.approx([0.1, 0.1])
    assert (dose["untrained_draws"], dose["strongest_untrained"]) == (len(draws), strongest)
    assert summary["verdict"] == "transferred"
    # the curve and the damage that are drawn are that source's
    shown = {point["strength"]: point["mean"] for point in summary["curves"]["untrained_source"]}
    assert shown[1.0] - shown[0.0] == pytest.approx(1.4)
    damages = summary["damage_curves"]["untrained_source"]
    assert damages[-1]["rise"] == pytest.approx(0.01 * strongest)


def test_one_untrained_source_of_several_is_enough_for_no_transfer() -> None:
    summary = summary_of(curves={"untrained_source": (0.1, 1.7)})
    assert summary["verdict"] == "not above an untrained source"


def test_each_untrained_source_ends_at_its_own_damage_limit() -> None:
    whole = planted_study(TEXT, curves={"untrained_source": (0.4, 1.9)}, refits=(1.6, 1.6))
    damages = [
        Damage(TEXT.name, "untrained_source", draw, s, 2 + 2 * draw * s, 2 * draw * s, 0.1)
        for draw in (0, 1)
        for s in (0.5, 1.0)
    ]
    assert summarise(TEXT, whole, GRID)["verdict"] == "not above an untrained source"
    limited = summarise(TEXT, replace(whole, damages=(*whole.damages, *damages)), GRID)
    assert limited["dose"]["strongest_untrained"] == 0
    assert limited["verdict"] == "transferred"


def test_the_verdict_stands_on_refits_of_the_map_too() -> None:
    same, apart = (
        summary_of(curves={"untrained_source": (1.2,)}, refits=r) for r in ((1.6, 1.6), (1.3, 1.9))
    )
    assert same["dose"]["above_untrained"] == pytest.approx([0.2, 0.2])
    low, high = apart["dose"]["above_untrained"]
    assert low < 0 < 0.4 < high
    assert apart["dose"]["above_untrained_items"] == pytest.approx([0.2, 0.2])
    assert (same["verdict"], apart["verdict"]) == ("transferred", "not above an untrained source")


def test_the_excess_is_over_the_strongest_null_in_either_direction() -> None:
    curves = {"untrained_source": (0.2, 0.4), "bias": (-1.2,), "other": (0.8,)}
    excess = summary_of(curves=curves)["dose"]["excess"]
    assert (excess["value"], excess["null"], excess["null_share"]) == (
        pytest.approx(0.8 - 0.6),
        "bias",
        pytest.approx(0.6),
    )
    assert excess["ci"] == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize("untrained", [1.6, 1.9])
def test_no_more_than_an_untrained_source_has_is_no_transfer(untrained: float) -> None:
    assert summary_of(curves={"untrained_source": (untrained,)})["verdict"] == "not above an untrained source"


def test_a_difference_within_the_noise_is_no_transfer() -> None:
    summary = summary_of(text_behaviour(), noise=0.5, curves={"untrained_source": (1.5,)})
    low, high = summary["dose"]["above_untrained"]
    assert low < 0.05 < high
    assert summary["verdict"] == "not above an untrained source"


def test_without_an_untrained_source_nothing_is_said_of_it() -> None:
    summary = summary_of()  # it was measured at one strength alone
    assert summary["dose"]["above_untrained"] is None
    assert summary["verdict"] == "not compared with an untrained source"


def test_a_native_vector_that_does_not_steer_has_no_dose() -> None:
    summary = summary_of(changes=CHANGES | {"native": 0.0}, curves={"untrained_source": (0.1,)})
    assert summary["dose"] is None
    assert summary["verdict"] == "native does not steer"


def test_a_native_vector_that_steers_with_damage_alone_is_not_said_not_to_steer() -> None:
    whole = planted_study(TEXT, curves={"untrained_source": (0.1,)})
    # without damage on development texts, broken at once on test texts
    broken = [
        Damage(TEXT.name, "native", 0, s, math.nan if s else 2.0, math.nan if s else 0.0, 0.1)
        for s in GRID.strengths
    ]
    harmless = [replace(d, split="development") for d in whole.damages if d.condition == "native"]
    others = [d for d in whole.damages if d.condition != "native"]
    summary = summarise(TEXT, replace(whole, damages=(*others, *harmless, *broken)), GRID)
    assert summary["ratio"] == pytest.approx(0.8)
    assert summary["dose"] is None
    assert summary["verdict"] == "not compared with an untrained source"
    assert "native vector over the damage limit on test texts" in summary["note"]


def test_one_item_transfers_nothing() -> None:
    one = replace(TEXT, test=TEXT.test[:1])
    summary = summary_of(one, curves={"untrained_source": (0.1,)})
    assert summary["dose"] is None
    assert summary["verdict"] != "transferred"


def test_an_effect_that_a_strict_null_has_too_is_no_transfer() -> None:
    summary = summary_of(curves={"untrained_source": (0.1,), "shuffled": (1.1,)})
    assert summary["verdict"] == "no effect of its own"
    assert summary["dose"]["conditions"]["shuffled"]["ratio"] == pytest.approx(0.55)


def test_curves_end_at_the_native_damage_limit() -> None:
    whole = planted_study(TEXT, chosen=0.5, curves={"untrained_source": (1.2,)})
    harmful = [
        Damage(TEXT.name, "native", 0, s, 2.0 + 2 * d, 2 * d, 0.1, "development")
        for s, d in ((0.0, 0.0), (0.5, 0.05), (1.0, 0.5))
    ]
    dose = summarise(TEXT, replace(whole, damages=(*whole.damages, *harmful)), GRID)["dose"]
    assert (dose["effect"], dose["native_strength"], dose["largest_strength"]) == pytest.approx(
        (0.5, 0.25, 0.5)
    )
    assert dose["conditions"]["transferred"]["ratio"] == pytest.approx(0.8)


def test_a_null_that_needs_damage_for_its_effect_does_not_reach_it() -> None:
    whole = planted_study(TEXT, curves={"untrained_source": (1.2,)})
    broken = [Damage(TEXT.name, "untrained_source", 0, s, 2 + 2 * s, 2 * s, 0.1) for s in (0.5, 1.0)]
    summary = summarise(TEXT, replace(whole, damages=(*whole.damages, *broken)), GRID)
    untrained = summary["dose"]["conditions"]["untrained_source"]
    assert untrained["ratio"] is None
    assert untrained["below"] == pytest.approx(0.5)
    assert untrained["share"] == pytest.approx(0.12 * (1 - 0.1 / 2))  # from strength .1 on it stays as it is
    assert summary["verdict"] == "transferred"


def test_the_plain_prompt_stands_beside_it() -> None:
    whole = planted_study(TEXT)
    rows = tuple(
        replace(r, value=r.value + 0.5) if r.condition == "prompt" else r for r in whole.measurements
    )
    summary = summarise(TEXT, replace(whole, measurements=rows), GRID)
    assert summary["prompt_ratio"] == pytest.approx(0.25)
    assert summary["prompt_ratio_ci"] == pytest.approx([0.25, 0.25])
    without = tuple(r for r in whole.measurements if r.condition != "prompt")
    assert summarise(TEXT, replace(whole, measurements=without), GRID)["prompt_ratio"] is None
