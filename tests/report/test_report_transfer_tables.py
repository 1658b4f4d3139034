from __future__ import annotations

from typing import Any

from lrt.report import Table, headline_table
from lrt.report.numerals import share_interval
from lrt.report.transfer_tables import (
    conditions_table,
    damage_table,
    layer_table,
    null_table,
    rescored_table,
)


def column(table: Table, name: str) -> list[Any]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_headline_table_holds_the_results_own_numbers(results: dict[str, Any]) -> None:
    behaviours = results["behaviours"]
    behaviours[0]["matched_damage"] = {"damage": 0.05, "strength": 0.6, "transferred": 0.5, "ratio": 0.87}
    table = headline_table(results)
    for name in ("strength", "unsteered", "native", "transferred"):
        assert column(table, name) == [b[name] for b in behaviours]
    assert column(table, "transfer ratio") == [b["ratio"] for b in behaviours]
    assert column(table, "damage, transferred") == [
        b["damage"]["transferred"]["relative"] for b in behaviours
    ]
    strongest = [max(b["nulls"].values(), default=None) for b in behaviours]
    assert column(table, "strongest null") == strongest
    assert [name is None for name in column(table, "which null")] == [null is None for null in strongest]
    assert column(table, "note") == [b["note"] for b in behaviours]
    first = behaviours[0]["ratio"]
    assert column(table, "range over refits")[0] == share_interval((first - 0.2, first - 0.02))
    assert column(table, "ratio at equal damage")[:2] == [0.87, None]


def test_null_and_condition_tables(results: dict[str, Any]) -> None:
    table = null_table(results)
    expected = [d for b in results["behaviours"] for d in b["null_details"].values()]
    assert column(table, "mean") == [d["mean"] for d in expected]
    assert column(table, "95th percentile") == [d["p95"] for d in expected]
    assert column(table, "draws") == [d["draws"] for d in expected]
    conditions = conditions_table(results)
    assert column(conditions, "plain prompt") == [b["prompt"] for b in results["behaviours"]]


def test_damage_by_condition_and_strength(results: dict[str, Any]) -> None:
    table = damage_table(results)
    first = results["behaviours"][0]
    rows = [row for row in table.rows if row[0] == table.rows[0][0]]
    points = [p for curve in first["damage_curves"].values() for p in curve if p["strength"]]
    single = set(first["damage"]) - set(first["damage_curves"])
    assert len(rows) == len(points) + len(single) > len(points)
    assert [row[3] for row in rows[: len(points)]] == [p["relative"] for p in points]
    assert {row[2] for row in rows[len(points) :]} == {first["strength"]}


def test_other_scorers_of_the_same_texts(results: dict[str, Any]) -> None:
    table = rescored_table(results)
    assert column(table, "scorer") == ["judge", "classifier"] * 2
    assert column(table, "transfer ratio") == [0.89, None] * 2
    assert column(table, "items without a score") == [1, 64] * 2
    assert column(table, "95% interval")[0] == "80 to 97%"
    assert column(table, "native") == [0.31, None] * 2
    assert not rescored_table({}).rows


def test_layer_table(results: dict[str, Any]) -> None:
    table = layer_table(results)
    chosen = [row[1] for row in table.rows if row[-1] == "chosen"]
    assert chosen == [3] * len(results["behaviours"])
    assert {row[1:4] for row in table.rows} == {(3, 0.7, "yes"), (2, 0.2, "no")}
