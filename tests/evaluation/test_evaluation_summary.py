import json
from dataclasses import replace
from pathlib import Path

import pytest
from planted_studies import CHANGES, GRID, planted_study
from small_behaviours import choice_behaviour, text_behaviour

from lrt.evaluation import Damage, Study, summarise
from lrt.evaluation.score_table import ScoreMissing
from lrt.evaluation.scorers import RefusalLogOdds
from lrt.evaluation.study_io import read_study, write_study
from lrt.evaluation.summary import HEADLINE

TEXT, CHOICE = text_behaviour(), choice_behaviour()


def test_figures_are_the_planted_ones() -> None:
    summary = summarise(TEXT, planted_study(TEXT), GRID)
    assert summary["unsteered"] == pytest.approx(3.1)
    assert summary["native"] == pytest.approx(5.1)
    assert summary["transferred"] == pytest.approx(4.7)
    assert summary["paper_literal"] == pytest.approx(3.5)
    assert summary["source"] == pytest.approx(4.1)
    assert summary["source_unsteered"] == summary["prompt"] == pytest.approx(3.1)
    assert summary["steers"]
    assert summary["ratio"] == pytest.approx(0.8)
    assert summary["ratio_ci"] == pytest.approx([0.8, 0.8])
    # refits of .75, .80 and .85: their deviation of .05 by Student's t of two degrees of freedom, 4.30
    assert summary["ratio_ci_map"] == pytest.approx([0.8 - 0.215, 0.8 + 0.215], abs=0.03)
    assert summary["ratio_refits"] == pytest.approx([0.75, 0.8, 0.85])
    assert summary["nulls"] == {
        "random": pytest.approx(0.05),
        "bias": pytest.approx(0.1),
        "shuffled": pytest.approx(0.15),
        "other": pytest.approx(0.3),
        "untrained_source": pytest.approx(0.0),
    }
    assert summary["null_details"]["shuffled"]["draws"] == 2
    assert summary["damage"]["transferred"]["relative"] == pytest.approx(0.02)
    assert summary["note"] == ""
    assert (summary["items"], summary["strength"], summary["strengths_tried"]) == (3, 1.0, 2)


def test_what_the_map_of_the_whole_corpus_keeps_is_told_where_it_is_another() -> None:
    assert summarise(TEXT, planted_study(TEXT), GRID)["whole_corpus_ratio"] is None
    study = planted_study(TEXT, points={"whole_corpus": (0.5,)})
    summary = summarise(TEXT, study, GRID)
    assert summary["whole_corpus"] == pytest.approx(3.6)
    assert summary["whole_corpus_ratio"] == pytest.approx(0.25)
    assert summary["whole_corpus_ratio_ci"] == pytest.approx([0.25, 0.25])
    assert "whole_corpus" not in summary["nulls"]


def test_the_chosen_strength_is_the_one_read() -> None:
    summary = summarise(TEXT, planted_study(TEXT, chosen=0.5), GRID)
    assert summary["native"] == pytest.approx(4.1)
    assert summary["ratio"] == pytest.approx(0.8)
    assert summary["damage"]["native"]["relative"] == pytest.approx(0.01)


@pytest.mark.parametrize("direction", [1, -1])
def test_the_headline_is_in_the_intended_direction(direction: int) -> None:
    behaviour = replace(TEXT, direction=direction)
    changes = {name: direction * change for name, change in CHANGES.items()}
    summary = summarise(behaviour, planted_study(behaviour, changes=changes), GRID)
    figures = summary["headline"]
    strength = summary["strength"]
    assert list(figures) == list(HEADLINE)
    assert figures["transferred_effect"] == pytest.approx(strength * CHANGES["transferred"])
    assert figures["native_effect"] == pytest.approx(strength * CHANGES["native"])
    ratio = figures["transferred_effect"] / figures["native_effect"]
    assert figures["transfer_ratio"] == summary["ratio"] == pytest.approx(ratio)
    assert figures["damage"] == summary["damage"]["transferred"]["relative"]
    assert figures["strongest_null"] == max(summary["nulls"].values())


def test_a_headline_without_a_native_effect_has_no_ratio() -> None:
    figures = summarise(TEXT, planted_study(TEXT, changes=CHANGES | {"native": 0.0}), GRID)["headline"]
    assert figures["transferred_effect"] is not None
    assert figures["transfer_ratio"] is figures["dose_ratio"] is figures["strongest_null"] is None


def test_curves_hold_every_strength_in_order() -> None:
    curves = summarise(TEXT, planted_study(TEXT), GRID)["curves"]
    assert set(curves) == set(CHANGES)
    for name, points in curves.items():
        assert [p["strength"] for p in points] == list(GRID.strengths)
        for p in points:
            assert p["mean"] == pytest.approx(3.1 + p["strength"] * CHANGES[name])
            assert p["low"] <= p["mean"] <= p["high"]


@pytest.mark.parametrize(
    ("study", "note"),
    [
        (planted_study(TEXT, changes=CHANGES | {"native": 0.0}), "native does not steer"),
        (planted_study(TEXT, changes=CHANGES | {"native": -2.0}), "native does not steer"),
        (planted_study(TEXT, changes=CHANGES | {"native": 0.01}, noise=1.0, seed=1), "native does not steer"),
        (planted_study(TEXT, damaged=True), "no strength keeps the native vector within"),
    ],
)
def test_no_ratio_without_a_native_effect_of_its_own(study: Study, note: str) -> None:
    summary = summarise(TEXT, study, GRID)
    assert note in summary["note"]
    assert "native does not steer" in summary["note"]
    assert summary["ratio"] is summary["ratio_ci"] is summary["ratio_ci_map"] is None
    assert summary["nulls"] == {}
    assert not summary["steers"]


def test_lowering_is_steering_where_it_is_meant() -> None:
    lowered = replace(TEXT, direction=-1)
    summary = summarise(lowered, planted_study(lowered, changes={k: -v for k, v in CHANGES.items()}), GRID)
    assert summary["steers"]
    assert summary["ratio"] == pytest.approx(0.8)
    assert summarise(lowered, planted_study(lowered), GRID)["ratio"] is None


def test_a_transferred_vector_over_the_damage_limit_is_flagged() -> None:
    summary = summarise(TEXT, planted_study(TEXT, damage=0.2), GRID)
    assert summary["note"] == (
        "native vector over the damage limit on test texts; "
        "transferred vector over the damage limit on test texts"
    )
    assert summary["ratio"] is not None


@pytest.mark.parametrize("null", ["random", "shuffled", "bias"])
def test_an_effect_that_its_nulls_have_too_is_nothing_to_be_kept(null: str) -> None:
    changes = CHANGES | ({"random": -1.1} if null == "random" else {})
    study = planted_study(TEXT, changes=changes, points={} if null == "random" else {null: (1.1,)})
    summary = summarise(TEXT, study, GRID)
    assert (
        summary["ratio"]
        is summary["ratio_ci"]
        is summary["ratio_ci_map"]
        is summary["matched_damage"]
        is None
    )
    assert not summary["steers"]
    assert summary["nulls"][null] == pytest.approx(0.55)  # it stays to be seen
    assert summary["note"] == f"no effect of its own: the {null} null has 55% of the native change"


def test_a_null_that_breaks_the_model_does_not_take_the_effect_away() -> None:
    study = planted_study(TEXT, points={"bias": (1.1,)})
    broken = Damage(TEXT.name, "bias", 0, 1.0, 3.0, 1.0, 0.5)
    summary = summarise(TEXT, replace(study, damages=(*study.damages, broken)), GRID)
    assert summary["ratio"] == pytest.approx(0.8)
    assert summary["nulls"]["bias"] == pytest.approx(0.55)
    mild = replace(broken, cross_entropy=2.1, rise=0.1)
    assert summarise(TEXT, replace(study, damages=(*study.damages, mild)), GRID)["ratio"] is None


@pytest.mark.parametrize("null", ["other", "untrained_source"])
def test_another_behaviour_or_an_untrained_source_may_have_a_part_in_it(null: str) -> None:
    summary = summarise(TEXT, planted_study(TEXT, points={null: (1.9,)}), GRID)
    assert summary["ratio"] == pytest.approx(0.8)
    assert summary["nulls"][null] == pytest.approx(0.95)


def test_items_without_a_score_are_excluded_under_every_condition() -> None:
    whole = planted_study(TEXT)
    gone = TEXT.test[0].id
    rows = tuple(
        replace(r, value=float("nan")) if (r.condition, r.item) == ("shuffled", gone) else r
        for r in whole.measurements
    )
    summary = summarise(TEXT, replace(whole, measurements=rows), GRID)
    assert summary["note"].startswith("1 items excluded")
    assert summary["items"] == 2
    assert summary["unsteered"] == pytest.approx(3.15)
    assert summary["ratio"] == pytest.approx(0.8)
    none = tuple(replace(r, value=float("nan")) for r in whole.measurements)
    with pytest.raises(ScoreMissing, match="'dogs'"):
        summarise(TEXT, replace(whole, measurements=none), GRID)


def test_items_of_one_answer_more_than_of_the_other_are_told() -> None:
    balanced, lopsided = choice_behaviour(test=4), choice_behaviour(test=3)
    assert summarise(balanced, planted_study(balanced), GRID)["note"] == ""
    assert (
        "unbalanced over answer keys (1 A, 2 B)" in summarise(lopsided, planted_study(lopsided), GRID)["note"]
    )


def test_behaviours_read_off_logits_have_no_texts_to_show() -> None:
    behaviour = replace(TEXT, scorer=RefusalLogOdds(("Sorry",)), operation="ablate")
    summary = summarise(behaviour, planted_study(behaviour), GRID)
    assert (summary["kind"], summary["operation"], summary["strength_unit"]) == ("logits", "ablate", "share")
    assert "examples" not in summary
    assert "propensity" not in summary
    assert summary["probability"]["none"] > 0.9


def test_examples_hold_the_texts_of_every_strength_with_their_scores() -> None:
    study = planted_study(TEXT)
    first = TEXT.test[1].id
    rows = tuple(
        replace(r, value=float("nan")) if (r.item, r.condition) == (first, "prompt") else r
        for r in study.measurements
    )
    examples = summarise(TEXT, replace(study, measurements=rows), GRID)["examples"]
    assert [e["prompt"] for e in examples] == [i.prompt for i in TEXT.test]
    texts = {(t["condition"], t["strength"]): t for t in examples[1]["texts"]}
    assert len(texts) == len(examples[1]["texts"])
    measured = {(r.condition, r.strength) for r in study.measurements if r.split == "test" and r.draw == 0}
    vectors = ("native", "transferred", "random", "untrained_source")
    assert {key for key in texts if key[0] in vectors} == {key for key in measured if key[0] in vectors}
    assert {s for c, s in texts if c == "native"} == {s for s in GRID.strengths if s != 0}
    assert {key for key in texts if key[0] not in vectors} == {
        ("none", 0.0),
        ("prompt", 0.0),
        ("shuffled", 1.0),
    }
    assert texts["none", 0.0]["text"] == "none 0.0 1"
    scores = {(r.condition, r.strength): r.value for r in rows if r.item == first and r.draw == 0}
    assert texts["native", 0.5]["score"] == scores["native", 0.5]
    assert texts["prompt", 0.0]["score"] is None


def test_a_condition_not_run_on_every_item_has_no_mean() -> None:
    whole = planted_study(TEXT)
    gone = TEXT.test[0].id
    rows = tuple(r for r in whole.measurements if (r.condition, r.item) != ("prompt", gone))
    assert len(rows) == len(whole.measurements) - 1
    summary = summarise(TEXT, replace(whole, measurements=rows), GRID)
    assert summary["prompt"] is None
    assert summary["ratio"] == pytest.approx(0.8)


@pytest.mark.parametrize("behaviour", [TEXT, CHOICE], ids=lambda b: b.name)
def test_the_rows_alone_make_it_again(behaviour: object, tmp_path: Path) -> None:
    assert behaviour in (TEXT, CHOICE)
    which = TEXT if behaviour is TEXT else CHOICE
    study = planted_study(which, noise=0.3)
    write_study(tmp_path / "rows.jsonl", study)
    first, again = (summarise(which, s, GRID, seed=3) for s in (study, read_study(tmp_path / "rows.jsonl")))
    assert json.dumps(first) == json.dumps(again)


def test_matched_damage_interpolates_to_the_natives() -> None:
    whole = planted_study(TEXT)  # native .02 at strength 1
    doubled = tuple(
        replace(d, rise=2 * d.rise, cross_entropy=d.cross_entropy + d.rise)
        if d.condition == "transferred"
        else d
        for d in whole.damages
    )
    summary = summarise(TEXT, replace(whole, damages=doubled), GRID)["matched_damage"]
    # the transferred vector does as much at half the strength, where it has half of its change
    assert summary["damage"] == pytest.approx(0.02)
    assert summary["strength"] == pytest.approx(0.5)
    assert summary["ratio"] == pytest.approx(0.4)
    same = summarise(TEXT, whole, GRID)["matched_damage"]
    assert same["ratio"] == pytest.approx(0.8)
    assert same["native"] == pytest.approx(5.1)
    assert same["ratio_ci"] == pytest.approx([0.8, 0.8])
    harmless = tuple(
        replace(d, rise=0.0, cross_entropy=2.0) if d.condition == "transferred" else d for d in whole.damages
    )
    assert summarise(TEXT, replace(whole, damages=harmless), GRID)["matched_damage"] is None


def test_where_the_transferred_vector_harms_less_both_are_read_at_the_most_it_does() -> None:
    whole = planted_study(TEXT)
    halved = tuple(
        replace(d, rise=d.rise / 2, cross_entropy=d.cross_entropy - d.rise / 2)
        if d.condition == "transferred"
        else d
        for d in whole.damages
    )
    summary = summarise(TEXT, replace(whole, damages=halved), GRID)["matched_damage"]
    assert summary["damage"] == pytest.approx(0.01)
    assert (summary["strength"], summary["native_strength"]) == pytest.approx((1.0, 0.5))
    assert summary["ratio"] == pytest.approx(1.6)  # 1.6 at strength 1 over 1.0 at half of it


def test_a_curve_of_damage_that_falls_again_is_read_where_it_first_comes_so_far() -> None:
    whole = planted_study(TEXT)
    shapes = {"transferred": {0.5: 0.04, 1.0: -0.02}, "native": {0.5: -0.01, 1.0: 0.02}}
    bent = tuple(
        replace(
            d, rise=2 * shapes[d.condition][d.strength], cross_entropy=2 + 2 * shapes[d.condition][d.strength]
        )
        if d.strength > 0
        else d
        for d in whole.damages
    )
    summary = summarise(TEXT, replace(whole, damages=bent), GRID)["matched_damage"]
    assert summary["damage"] == pytest.approx(0.02)
    assert (summary["strength"], summary["native_strength"]) == pytest.approx((0.25, 1.0))
    assert summary["ratio"] == pytest.approx(0.2)
