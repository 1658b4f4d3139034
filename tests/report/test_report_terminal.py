from __future__ import annotations

from typing import Any

import pytest

from lrt.report import Table, fit_table, headline_brief, summary_tables


def column(table: Table, name: str) -> list[Any]:
    return [row[table.columns.index(name)] for row in table.rows]


def card(pool: int) -> dict[str, Any]:
    metrics = {
        "fvu": 0.12345,
        "optimum_fvu": 0.12,
        "excess_over_optimum": -0.0123,
        "fvu_tokens": 0.5,
        "fvu_unfiltered": 0.9,
    }
    return {
        "pair": "small-to-large",
        "map": {"kind": "low_rank"},
        "metrics": metrics,
        "corpus": {"pool": pool},
        "rows": {"train": 1000},
        "rows_excluded": 7,
    }


@pytest.mark.parametrize(("pool", "rows"), [(16, "pooled rows"), (1, "training tokens")])
def test_every_fitted_map_has_a_row(pool: int, rows: str) -> None:
    table = fit_table({"whole corpus": card(pool), "stories": card(pool)})
    assert column(table, "map") == ["whole corpus", "stories"]
    assert column(table, "FVU") == ["0.1235"] * 2
    assert column(table, "excess") == ["−1.23%"] * 2
    assert column(table, rows) == [1000] * 2
    assert ("16" in table.title) is (pool == 16)


def test_the_brief_headline(results: dict[str, Any]) -> None:
    first, second, *_ = results["behaviours"]
    first |= {"ratio": 1.031, "ratio_ci": [0.9, 1.2], "nulls": {"random": 0.1, "untrained_source": 1.03}}
    second |= {"ratio": 0.5, "ratio_ci": None}
    table = headline_brief(results)
    assert column(table, "behaviour") == [b["name"].replace("_", " ") for b in results["behaviours"]]
    ratios = column(table, "transfer ratio")
    assert (ratios[0], ratios[1], ratios[-1]) == ("103% [90, 120]", "50%", "undefined")
    assert column(table, "strongest null")[0] == "103% untrained source"
    assert column(table, "strongest null")[-1] is None
    assert column(table, "damage")[0] == "4.8%"
    assert set(table.fitted(32).columns) == {"behaviour", "transfer ratio"}


def test_the_summary_skips_tables_without_rows(results: dict[str, Any]) -> None:
    assert len(summary_tables(results)) == 4
    assert len(summary_tables({**results, "behaviours": results["behaviours"][-1:]})) == 2
    assert summary_tables({}) == ()
