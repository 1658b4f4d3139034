"""When a map pays, as the report says it."""

from typing import Any

import pytest

from lrt.report.page import page
from lrt.report.price_tables import break_even_table, price_figure, price_headline, price_table, priced


def share(value: float) -> dict[str, Any]:
    return {"value": value, "interval": [value - 0.1, value + 0.1]}


def behaviour(name: str, vectors: int | None, pairs: int | None = 8, bound: str = "") -> dict[str, Any]:
    high = None if vectors is None else 2 * vectors
    reading = {
        "shares": {
            "native": share(1.0),
            "transferred": share(0.8),
            **{f"{kind} {n}": share(0.5 + n / 20) for kind in ("native", "transferred") for n in (4, 8)},
            "blended 4": share(0.85),
        },
        "break_even": {
            "pairs": pairs,
            "tokens": None if pairs is None else 40 * pairs,
            "vectors": vectors,
            "interval": [2, high],
            "bound": bound,
        },
    }
    return {
        "name": name,
        "map": "whole corpus",
        "layer": 3,
        "strength": 0.5,
        "damage": 0.05,
        "pairs": 8,
        "tokens": {"4": 160.5, "8": 320},
        "map_tokens": 20_000,
        "few_shot": [
            {
                "pairs": n,
                "draws": 4 if n == 4 else 1,
                "cosines": {"native": 0.7, "transferred": 0.6} | ({"blended": 0.9} if n == 4 else {}),
                "native_weight": 0.3 if n == 4 else None,
                "strengths": {},
            }
            for n in (4, 8)
        ],
        "counts_left_out": [16],
        "chosen": reading,
        "equal_damage": reading,
    }


@pytest.fixture
def price() -> dict[str, Any]:
    flat = behaviour("tidy", None) | {"chosen": None, "equal_damage": None}
    behaviours = [
        behaviour("french", 63),
        behaviour("dogs", 126, 4, "at least"),
        behaviour("capitals", None, None),
        flat,
    ]
    return {"price": {"counts": [4, 8, 16], "behaviours": behaviours}}


def test_the_table_says_from_how_many_vectors_on(price: dict[str, Any]) -> None:
    table = break_even_table(price)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    column = "pays from (vectors)"
    assert {name: row[column] for name, row in rows.items()} == {
        "french": "63",
        "dogs": "≥ 126",
        "capitals": "never",
        "tidy": None,
    }
    assert rows["dogs"]["native pairs of equal effect"] == "≤ 4"
    assert "does not steer" in str(rows["tidy"]["note"])
    assert all("16 pairs" in str(row["note"]) for row in rows.values())
    assert rows["capitals"]["95% interval of that"] == "2 to never"
    price["price"]["notes"] = {"mood": "no item has a score"}
    assert break_even_table(price).rows[-1][-1] == "no item has a score"


def test_every_number_of_pairs_has_a_row(price: dict[str, Any]) -> None:
    rows = price_table(price).rows
    assert [row[:3] for row in rows[:2]] == [("french", 4, 4), ("french", 8, 1)]
    assert len(rows) == 8
    assert "85%" in rows[0]
    assert "85%" not in rows[1]  # there is no blend of all pairs


def test_the_headline_is_a_median_and_counts_those_that_never_pay(price: dict[str, Any]) -> None:
    sentence = price_headline(price)
    assert "94 vectors" in sentence
    assert "63 to 126" in sentence
    assert "never pays for 1 more" in sentence
    price["price"]["behaviours"] = [behaviour("capitals", None, None)]
    assert "never pays" in price_headline(price)
    assert price_headline({}) == ""


def test_without_the_tokens_of_the_map_effects_stand_alone(price: dict[str, Any]) -> None:
    for each in price["price"]["behaviours"]:
        each["map_tokens"] = None
        for reading in ("chosen", "equal_damage"):
            if each[reading]:
                each[reading] = {**each[reading], "break_even": None}
    assert price_headline(price) == ""
    assert all("fitted before" in str(row[-1]) for row in break_even_table(price).rows)
    assert price_table(price).rows


def test_the_page_has_a_section_where_it_was_asked_for(price: dict[str, Any]) -> None:
    whole = page(price)
    assert 'id="price"' in whole
    assert "≥ 126" in whole
    assert 'id="price"' not in page({})
    for each in priced(price):
        assert price_figure(each).axes
