from __future__ import annotations

from typing import Any

import pytest

from lrt.report import Table, paper_table, probability_table, propensity_table


def column(table: Table, name: str) -> list[Any]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_the_papers_r_leaves_strength_zero_out(results: dict[str, Any]) -> None:
    """At strength 0 both models are the same one: its r of 1 would flatter every mean."""
    table = propensity_table(results)
    assert len(table.rows) == 4
    assert column(table, "paper's r")[0] == pytest.approx(
        (0.91 + 0.95 + 0.98 + 0.96 + 0.94 + 0.92 + 0.88) / 7
    )
    assert column(table, "random |r|")[0] == 0.19
    assert column(table, "slope ratio")[-1] is None
    assert column(table, "interval of anti-steerable")[0] == "1 to 6%"
    assert column(table, "interval of anti, native")[0] == "–"


def test_the_papers_table_has_every_strength(results: dict[str, Any]) -> None:
    table = paper_table(results)
    propensity = next(b["propensity"] for b in results["behaviours"] if b["name"] == "brave")
    assert len(table.rows) == 4 * len(propensity["strengths"])
    for name, key in (("strength", "strengths"), ("paper's r", "paper_r")):
        assert column(table, name)[:8] == propensity[key]
    zero = propensity["strengths"].index(0.0)
    within = [*propensity["stratified_r_at"]["value"]]
    assert column(table, "r within key")[:8] == [*within[:zero], None, *within[zero:]]
    assert column(table, "interval of it")[0] == "0.40 to 0.90"
    assert column(table, "interval")[:8] == ["0.85 to 0.96"] * 8
    assert column(table, "its interval")[0] == "–"  # a result of before
    del propensity["stratified_r_at"]  # a result of before
    assert column(paper_table(results), "r within key").count(None) == len(table.rows) // 4 + 3


def test_both_scales_of_the_papers_statistics_stand_beside_the_stratified(results: dict[str, Any]) -> None:
    table = propensity_table(results)
    assert column(table, "paper's r, probability")[0] == pytest.approx(
        (0.8 + 0.9 + 0.95 + 0.9 + 0.85 + 0.8 + 0.7) / 7
    )
    assert column(table, "paper's MSE, probability")[0] == pytest.approx(0.25 / 7)
    assert column(table, "interval of it")[0] == "0.70 to 0.88"
    assert column(paper_table(results), "paper's MSE, probability")[:2] == [0.04, 0.02]
    results["behaviours"][-1]["propensity"]["stratified_r_ci"] = [None, None]
    assert column(propensity_table(results), "interval of it")[-1] == "–"


def test_probabilities_are_of_behaviours_read_off_logits(results: dict[str, Any]) -> None:
    table = probability_table(results)
    assert len(table.rows) == 4
    assert column(table, "native") == [0.9] * 4
    assert column(table, "source") == [None] * 4
