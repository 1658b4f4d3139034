from __future__ import annotations

from typing import Any

from lrt.report.contents import TRANSFERRED_WELL, headline, key_figures


def test_the_headline_has_the_median_over_judged_behaviours(results: dict[str, Any]) -> None:
    ratios = [0.5, 0.7, TRANSFERRED_WELL, 0.95, *[1.0] * 5]
    for b, ratio in zip(results["behaviours"], ratios, strict=False):
        b["ratio"] = ratio
    assert "100%" in headline(results)
    assert "9 behaviours" in headline(results)
    value, what = key_figures(results)[0]
    assert value == "50% to 100%"
    assert "7 of 9" in what
    results["behaviours"] = results["behaviours"][:1]
    assert "50%" in headline(results)
    value, what = key_figures(results)[0]
    assert value == "50%"
    assert "0 of 1" in what


def test_held_nulls_are_random_shuffled_and_bias_alone(results: dict[str, Any]) -> None:
    for b in results["behaviours"]:
        if b["nulls"]:
            b["nulls"] = {"random": 0.1, "shuffled": 0.2, "bias": 0.3, "other": 9.0}
    value, what = key_figures(results)[1]
    assert value == "20%"
    assert "0 of 9" in what
    for b in results["behaviours"][:2]:
        b["nulls"] = {"random": 0.1, "other": 0.2}
    assert "2 of 9" in key_figures(results)[1][1]


def test_damage_is_the_median_over_judged_behaviours(results: dict[str, Any]) -> None:
    judged = [b for b in results["behaviours"] if b["ratio"] is not None]
    for i, b in enumerate(judged):
        b["damage"]["transferred"]["relative"] = 0.01 * i
    value, what = key_figures(results)[2]
    assert value == "4.0%"
    assert "6.1%" in what
    for b in judged:
        del b["damage"]["native"]
    assert not any("damage" in what for _, what in key_figures(results))


def test_there_is_no_ratio_without_a_native_effect(results: dict[str, Any]) -> None:
    results["behaviours"] = results["behaviours"][-1:]
    assert "No transfer ratio" in headline(results)
    assert "%" not in headline(results)
    assert len(key_figures({**results, "map": None})) == 0
    assert headline({})
