from __future__ import annotations

from typing import Any

from lrt.report import headline_brief, headline_table
from lrt.report.dose_tables import dose_table, dose_text, verdict_figure, verdicts
from lrt.report.page import markdown, page
from lrt.report.table import Table


def column(table: Table, name: str) -> list[Any]:
    return [row[table.columns.index(name)] for row in table.rows]


def undrawn(results: dict[str, Any]) -> dict[str, Any]:
    """Without figures, which take long to draw."""
    behaviours = [{**b, "curves": {}} for b in results["behaviours"]]
    return {**results, "behaviours": behaviours, "training": None, "maps": []}


def test_every_condition_with_a_dose_has_a_row(results: dict[str, Any]) -> None:
    table = dose_table(results)
    assert column(table, "condition") == ["transferred", "untrained source"] * 9
    assert column(table, "dose ratio")[:2] == ["90%", "below 40%"]
    assert column(table, "95% interval")[:2] == ["80 to 100%", "0 to 40%"]
    assert column(table, "curve share")[:2] == [0.95, 0.1]
    assert not dose_table({}).rows


def test_transferred_and_untrained_source_stand_side_by_side_in_the_headline(results: dict[str, Any]) -> None:
    for table in (headline_table(results), headline_brief(results)):
        at = table.columns.index("dose ratio")
        assert "dose ratio, untrained source" in table.columns[at : at + 4]
        assert column(table, "dose ratio, untrained source")[0] == "below 40%"
        assert column(table, "verdict")[0] == "transferred"
    assert column(headline_table(results), "plain prompt") == [b["prompt"] for b in results["behaviours"]]
    assert dose_text(results["behaviours"][-1], "transferred") is None
    for text in (markdown(results), page(undrawn(results))):
        assert "below 40%" in text
        assert "9 of 9 behaviours count as transferred" in text


def test_the_verdicts_in_words(results: dict[str, Any]) -> None:
    assert verdict_figure(results) == (
        "9 of 9",
        "behaviours whose dose ratio is above every untrained source's",
    )
    results["behaviours"][0]["verdict"] = "not above an untrained source"
    assert verdicts(results).startswith("8 of 9 behaviours count as transferred")
    for b in results["behaviours"]:
        b["verdict"] = "not compared with an untrained source"
    assert verdict_figure(results) is None
    assert verdicts(results) == "10 of 10 behaviours were not compared with an untrained source."


def test_results_without_doses_have_neither_column_nor_verdict(results: dict[str, Any]) -> None:
    for b in results["behaviours"]:
        for name in ("dose", "verdict", "prompt_ratio"):
            del b[name]
    assert "dose ratio" not in headline_table(results).filled().columns
    assert verdicts(results) == ""
    assert 'id="dose"' not in page(undrawn(results))
    assert "dose ratio" not in headline_brief(results).filled().columns
