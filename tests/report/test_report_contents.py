from __future__ import annotations

from typing import Any

from lrt.report.contents import TRANSFERRED_WELL, headline, key_figures


def test_the_headline_has_the_median_over_judged_behaviours(results: dict[str, Any]) -> None:
    ratios = [0.5, 0.7, TRANSFERRED_WELL, 0.95, *[1.0] * 5]
    for b, ratio in zip(results["behaviours"], ratios, strict=False):
        b["ratio"] = ratio
    assert "100%" in headline(results)
    assert "9 behaviours" in headline(results)
    figures = [value for value, _ in key_figures(results)]
    assert figures[:2] == ["7 of 9", "50% to 100%"]
    results["behaviours"] = results["behaviours"][:1]
    assert "50%" in headline(results)
    assert key_figures(results)[0][0] == "0 of 1"


def test_held_nulls_are_random_shuffled_and_bias_alone(results: dict[str, Any]) -> None:
    for b in results["behaviours"]:
        if b["nulls"]:
            b["nulls"] = {"random": 0.1, "shuffled": 0.2, "bias": 0.3, "other": 9.0}
    assert [value for value, _ in key_figures(results)][2:4] == ["20%", "0 of 9"]
    for b in results["behaviours"][:2]:
        b["nulls"] = {"random": 0.1, "other": 0.2}
    assert key_figures(results)[3][0] == "2 of 9"


def test_there_is_no_ratio_without_a_native_effect(results: dict[str, Any]) -> None:
    results["behaviours"] = results["behaviours"][-1:]
    assert "No transfer ratio" in headline(results)
    assert "%" not in headline(results)
    assert len(key_figures({**results, "map": None})) == 0
    assert headline({})
