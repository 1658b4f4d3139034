"""Side effects and graded answers in the report."""

from __future__ import annotations

from typing import Any

import pytest

from lrt.report import headline_table
from lrt.report.page import markdown, page
from lrt.report.side_effects import (
    effects_cell,
    quality_table,
    side_effect_sets_table,
    side_effect_table,
)


def at(value: float, change: float | None = None, **more: float) -> dict[str, Any]:
    measured = {"value": value, "ci": [value - 0.1, value + 0.1], "draws": 1, **more}
    return (
        measured
        if change is None
        else measured | {"change": change, "change_ci": [change - 0.1, change + 0.1]}
    )


@pytest.fixture
def measured(results: dict[str, Any]) -> dict[str, Any]:
    """The results, the first behaviour with side effects and graded answers."""
    first = results["behaviours"][0]
    first["side_effects"] = {
        "capability": {
            "origin": "mmlu",
            "items": 570,
            "unscored": 0,
            "conditions": {"none": at(0.62), "native": at(0.6, -0.02), "transferred": at(0.585, -0.035)},
        },
        "perplexity": {
            "origin": "wikitext",
            "items": 40,
            "unscored": 0,
            "conditions": {"none": at(12.0), "native": at(12.6, 0.05), "transferred": at(13.2, 0.1)},
        },
        "over_refusal": {
            "origin": "alpaca",
            "items": 48,
            "unscored": 1,
            "conditions": {
                "none": at(0.02, degenerate=0.0),
                "native": at(0.02, 0.0, degenerate=0.25),
                "transferred": at(0.02, 0.0, degenerate=0.5),
            },
        },
    }
    grade = {"answers": 60, "words": 17.5, "distinct": 0.91, "degenerate": 0.25, "degenerate_ci": [0.1, 0.4]}
    first["answers"] = {
        "conditions": {name: grade | {"faults": {"loop": 15}} for name in ("none", "native", "transferred")},
        "native_change": 0.9,
        "native_change_ci": [0.8, 1.0],
        "transferred_change": 0.45,
        "transferred_change_ci": [0.3, 0.6],
        "ratio": 0.5,
        "ratio_ci": [0.4, 0.6],
        "note": "",
    }
    return results


def test_the_cell_of_the_headline(measured: dict[str, Any]) -> None:
    first, second, *_ = measured["behaviours"]
    assert effects_cell(first, "transferred") == "accuracy −3.5 points, perplexity +10%, refusals 0 points"
    assert effects_cell(second, "transferred") is None
    table = headline_table(measured)
    column = [row[table.columns.index("side effects, transferred")] for row in table.rows]
    assert column[0] == effects_cell(first, "transferred")
    assert set(column[1:]) == {None}


def test_tables_hold_the_results_own_numbers(measured: dict[str, Any]) -> None:
    rows = {
        row[1]: dict(zip(side_effect_table(measured).columns, row, strict=True))
        for row in side_effect_table(measured).rows
    }
    assert set(rows) == {"unsteered", "native", "transferred"}
    assert rows["transferred"]["accuracy"] == 0.585
    assert rows["transferred"]["perplexity, change"] == 0.1
    assert rows["transferred"]["degenerate answers to them"] == 0.5
    assert rows["unsteered"]["accuracy, change"] is None
    assert [row[1:3] for row in side_effect_sets_table(measured).rows] == [
        ("mmlu", 570),
        ("wikitext", 40),
        ("alpaca", 48),
    ]
    quality = [
        dict(zip(quality_table(measured).columns, row, strict=True)) for row in quality_table(measured).rows
    ]
    assert [row["ratio by other answers"] for row in quality] == [None, None, 0.5]
    assert [row["change by other answers"] for row in quality] == [None, 0.9, 0.45]
    assert quality[0]["why"] == "15 loop"


def test_sections_stand_where_there_is_something(measured: dict[str, Any]) -> None:
    # without figures, which take seconds
    behaviours = [{**b, "curves": None} for b in measured["behaviours"][:2]]
    few = {"pair": measured["pair"], "split": "test", "behaviours": behaviours}
    html = page(few)
    assert 'id="side-effects"' in html
    assert 'id="quality"' in html
    assert "accuracy −3.5 points" in html
    assert "Side effects" in markdown(few)
    for behaviour in behaviours:
        behaviour["side_effects"] = behaviour["answers"] = None
    html = page(few)
    assert 'id="side-effects"' not in html
    assert 'id="quality"' not in html


def test_a_set_that_is_missing_leaves_its_columns_empty(measured: dict[str, Any]) -> None:
    del measured["behaviours"][0]["side_effects"]["capability"]
    table = side_effect_table(measured).filled()
    assert "accuracy" not in table.columns
    assert "perplexity" in table.columns
    assert effects_cell(measured["behaviours"][0], "native") == "perplexity +5.0%, refusals 0 points"
