from __future__ import annotations

from typing import Any

from lrt.report.run_tables import check_table, model_table, notes_table, seconds_table


def test_models_and_their_checks(results: dict[str, Any]) -> None:
    assert [row[1] for row in model_table(results).rows] == ["310k", "640k", "3.1M"]
    rows = check_table(results).rows
    assert len(rows) == 15
    assert [row[-1] for row in rows].count("failed") == 1
    assert [row[3] for row in rows[:2]] == ["≥ 0.95", "≤ 0.03"]


def test_seconds_and_failed_analyses(results: dict[str, Any]) -> None:
    assert dict(seconds_table(results).rows) == results["seconds"]
    assert notes_table(results).rows == ()
    results["notes"] = {"rank_curve": "<the widths> do not fit"}
    assert notes_table(results).rows == (("rank curve", "<the widths> do not fit"),)
