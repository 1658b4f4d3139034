from __future__ import annotations

from typing import Any

from lrt.report.null_tables import evidence_table, null_cause_table
from lrt.report.page import markdown
from lrt.report.terminal import summary_tables


def test_behaviours_are_in_the_order_of_what_they_say(results: dict[str, Any]) -> None:
    results["behaviours"][0]["dose"]["excess"] |= {"value": 0.9, "ci": [-0.2, 1.9]}  # large and not certain
    table = evidence_table(results)
    lowest = {b["name"]: b["dose"]["excess"]["ci"][0] for b in results["behaviours"] if b["dose"]}
    names = [str(row[0]) for row in table.rows]
    assert names == [n.replace("_", " ") for n in sorted(lowest, key=lambda n: -lowest[n])]
    assert names[-1] == "french"
    assert table.title in {each.title for each in summary_tables(results)}
    mood = table.rows[names.index("mood")]
    assert mood[-1] == "another behaviour (dogs): alignment"


def test_every_null_that_steers_has_its_cause(results: dict[str, Any]) -> None:
    (row,) = null_cause_table(results).rows
    assert row[:4] == ("mood", "another behaviour (dogs)", "alignment", 0.29)
    assert "Why nulls steer" in markdown(results)


def test_results_without_them_have_neither_table(results: dict[str, Any]) -> None:
    for b in results["behaviours"]:
        del b["null_causes"]
        if b["dose"]:
            del b["dose"]["excess"]
    assert not evidence_table(results).rows
    assert not null_cause_table(results).rows
    assert "Why nulls steer" not in markdown(results)
