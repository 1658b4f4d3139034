from __future__ import annotations

from typing import Any

from lrt.report import (
    Table,
    check_table,
    conditions_table,
    damage_table,
    headline,
    headline_table,
    key_figures,
    layer_table,
    map_table,
    null_table,
    rescored_table,
    seconds_table,
)
from lrt.report.numerals import share_interval


def column(table: Table, name: str) -> list[Any]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_headline_table_holds_the_results_own_numbers(results: dict[str, Any]) -> None:
    table = headline_table(results)
    behaviours = results["behaviours"]
    for name in ("strength", "unsteered", "native", "transferred", "ratio"):
        assert column(table, name) == [b[name] for b in behaviours]
    assert column(table, "damage, transferred") == [
        b["damage"]["transferred"]["relative"] for b in behaviours
    ]
    for null, which, b in zip(
        column(table, "strongest null"), column(table, "which"), behaviours, strict=True
    ):
        assert null == max(b["nulls"].values(), default=None)
        assert (which is None) == (not b["nulls"])
    assert column(table, "note")[-1].startswith("native does not steer")
    first = behaviours[0]["ratio"]
    assert column(table, "refits")[0] == share_interval((first - 0.2, first - 0.02))


def test_null_and_condition_tables(results: dict[str, Any]) -> None:
    table = null_table(results)
    expected = [d for b in results["behaviours"] for d in b["null_details"].values()]
    assert column(table, "mean") == [d["mean"] for d in expected]
    assert column(table, "95th percentile") == [d["p95"] for d in expected]
    assert column(table, "draws") == [d["draws"] for d in expected]
    conditions = conditions_table(results)
    assert column(conditions, "plain prompt") == [b["prompt"] for b in results["behaviours"]]


def test_damage_stands_by_condition_and_strength_and_at_equal_damage(results: dict[str, Any]) -> None:
    table = damage_table(results)
    first = results["behaviours"][0]
    of_first = [row for row in table.rows if row[0] == table.rows[0][0]]
    points = [p for curve in first["damage_curves"].values() for p in curve if p["strength"]]
    alone = set(first["damage"]) - set(first["damage_curves"])
    assert len(of_first) == len(points) + len(alone) > len(points)
    assert [row[3] for row in of_first[: len(points)]] == [p["relative"] for p in points]
    assert {row[2] for row in of_first[len(points) :]} == {first["strength"]}
    first["matched_damage"] = {"damage": 0.05, "strength": 0.6, "transferred": 0.5, "ratio": 0.87}
    assert column(headline_table(results), "ratio at equal damage")[0] == 0.87


def test_other_scorers_of_the_same_texts(results: dict[str, Any]) -> None:
    table = rescored_table(results)
    assert column(table, "scorer") == ["judge", "classifier"] * 2
    assert column(table, "ratio") == [0.89, None] * 2
    assert column(table, "left out") == [1, 64] * 2
    assert column(table, "interval")[0] == "80 to 97%"
    assert column(table, "native") == [0.31, None] * 2
    assert not rescored_table({}).rows


def test_checks_and_seconds(results: dict[str, Any]) -> None:
    table = check_table(results)
    assert len(table.rows) == 15
    assert column(table, "verdict").count("missed") == 1
    assert column(table, "limit")[:2] == ["≥ 0.95", "≤ 0.03"]
    assert column(seconds_table(results), "seconds") == list(results["seconds"].values())


def test_map_table_tells_what_left_the_fit(results: dict[str, Any]) -> None:
    rows = dict(map_table(results).rows)
    assert rows["FVU"] == 0.4123
    assert rows["left out: first position"] == 1_172


def test_map_table_tells_how_it_was_solved_where_the_card_does(results: dict[str, Any]) -> None:
    names = [row[0] for row in map_table(results).rows]
    rows = dict(map_table(results).rows)
    gcv = names.index("ridge weight") + 1
    assert names[gcv : gcv + 2] == ["ridge weight by generalised cross-validation", "FVU with that weight"]
    assert (rows["ridge weight"], rows[names[gcv]], rows[names[gcv + 1]]) == (31.6, 7.9, 0.4211)
    assert rows["how it was solved"].startswith("ridge regression, exact")
    results["map"] |= {"gcv_weight": None, "gcv_fvu": None, "note": ""}
    left = [row[0] for row in map_table(results).rows]
    assert len(left) == len(names) - 3


def test_headline_says_the_median_over_judged_behaviours(results: dict[str, Any]) -> None:
    for b, ratio in zip(results["behaviours"], [0.5, 0.7, 0.9, *[1.0] * 6], strict=False):
        b["ratio"] = ratio
    assert "median 100% of the native effect over 9 behaviours" in headline(results)
    assert key_figures(results)[0][0] == "7 of 9"
    assert key_figures(results)[1][0] == "50% to 100%"


def test_held_nulls_are_random_shuffled_and_bias_alone(results: dict[str, Any]) -> None:
    for b in results["behaviours"]:
        if b["nulls"]:
            b["nulls"] = {"random": 0.1, "shuffled": 0.2, "bias": 0.3, "other": 9.0}
    figures = key_figures(results)
    assert "20%" in [value for value, _ in figures]
    judged = sum(b["ratio"] is not None for b in results["behaviours"])
    assert (f"0 of {judged}", "hold every null to 20% of the native effect") in figures
    for b in results["behaviours"][:2]:
        b["nulls"] = {"random": 0.1, "other": 0.2}
    assert f"2 of {judged}" in [value for value, _ in key_figures(results)]


def test_headline_does_not_claim_without_a_native_effect(results: dict[str, Any]) -> None:
    results["behaviours"] = results["behaviours"][-1:]
    assert "steer none of 1 behaviours" in headline(results)
    assert headline({}) == "No behaviour was measured."


def test_layer_table(results: dict[str, Any]) -> None:
    steered = [row for row in layer_table(results).rows if row[-1] == "steered"]
    assert [row[1] for row in steered] == [3] * len(results["behaviours"])
    assert {row[1:4] for row in layer_table(results).rows} == {(3, 0.7, "yes"), (2, 0.2, "no")}
