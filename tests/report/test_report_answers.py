from __future__ import annotations

from typing import Any

import pytest

from lrt.report import Table
from lrt.report.answers import paper_table, probability_table, propensity_table


def column(table: Table, name: str) -> list[Any]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_means_over_strengths_leave_strength_zero_out(results: dict[str, Any]) -> None:
    """At strength 0 both models are the same one: its r of 1 would flatter every mean."""
    table = propensity_table(results)
    assert len(table.rows) == 4
    assert column(table, "paper's r")[0] == pytest.approx(
        (0.91 + 0.95 + 0.98 + 0.96 + 0.94 + 0.92 + 0.88) / 7
    )
    assert column(table, "paper's r, probability")[0] == pytest.approx(
        (0.8 + 0.9 + 0.95 + 0.9 + 0.85 + 0.8 + 0.7) / 7
    )
    assert column(table, "paper's MSE, probability")[0] == pytest.approx(0.25 / 7)


def test_statistics_with_a_null_have_their_intervals(results: dict[str, Any]) -> None:
    results["behaviours"][-1]["propensity"]["stratified_r_ci"] = [None, None]
    table = propensity_table(results)
    assert column(table, "95% interval, r within key")[0] == "0.70 to 0.88"
    assert column(table, "95% interval, r within key")[-1] == "–"
    assert column(table, "|r| within key, random")[0] == 0.19
    assert column(table, "slope ratio")[-1] is None
    assert column(table, "95% interval, anti-steerable")[0] == "1 to 6%"
    assert column(table, "95% interval, anti-steerable, native")[0] == "–"


def test_the_papers_table_has_every_strength(results: dict[str, Any]) -> None:
    table = paper_table(results)
    propensity = next(b["propensity"] for b in results["behaviours"] if b["name"] == "brave")
    assert len(table.rows) == 4 * len(propensity["strengths"])
    for name, key in (
        ("strength", "strengths"),
        ("paper's r", "paper_r"),
        ("paper's MSE, probability", "paper_mse_probability"),
    ):
        assert column(table, name)[:8] == propensity[key]
    zero = propensity["strengths"].index(0.0)
    within = [*propensity["stratified_r_at"]["value"]]
    assert column(table, "r within key")[:8] == [*within[:zero], None, *within[zero:]]
    assert column(table, "95% interval, r within key")[0] == "0.40 to 0.90"
    assert column(table, "95% interval, r")[:8] == ["0.85 to 0.96"] * 8
    assert column(table, "95% interval, MSE")[0] == "–"
    del propensity["stratified_r_at"]
    assert column(paper_table(results), "r within key").count(None) == len(table.rows) // 4 + 3


def test_probabilities_are_of_behaviours_read_off_logits(results: dict[str, Any]) -> None:
    table = probability_table(results)
    assert len(table.rows) == 4
    assert column(table, "native") == [0.9] * 4
    assert "source model, steered" not in table.filled().columns
