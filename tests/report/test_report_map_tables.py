from __future__ import annotations

from typing import Any

import pytest

from lrt.report import Table
from lrt.report.map_tables import along_table, forecast_table, given_away_table, map_table, maps_table
from lrt.report.palette import behaviour_name


def column(table: Table, name: str) -> list[Any]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_map_table_counts_the_excluded_tokens(results: dict[str, Any]) -> None:
    rows = dict(map_table(results).rows)
    assert rows["FVU"] == 0.4123
    assert rows["tokens per pooled row"] == 16
    assert rows["tokens excluded"] == 1_888
    assert rows["excluded: first position"] == 1_172


def test_map_table_has_no_row_without_a_value(results: dict[str, Any]) -> None:
    table = map_table(results)
    rows = dict(table.rows)
    assert (rows["ridge weight by generalised cross-validation"], rows["FVU with that weight"]) == (
        7.9,
        0.4211,
    )
    results["map"] |= {"gcv_weight": None, "gcv_fvu": None, "note": ""}
    assert len(map_table(results).rows) == len(table.rows) - 3
    assert not map_table({}).rows


def test_maps_and_their_error_along_each_vector(results: dict[str, Any]) -> None:
    table = maps_table(results)
    assert column(table, "FVU") == [0.4123, 0.31]
    assert column(table, "for the behaviours")[0] == "none"
    assert "french" in column(table, "for the behaviours")[1]
    along = results["maps"][0]["error_along"]
    along["french@12"] = along.pop("french")
    labels = column(along_table(results), "vector")
    assert "french, layer 12" in labels
    # the maps of one vector stand together
    assert labels.index("capitals") + 1 == len(labels) - labels[::-1].index("capitals") - 1


@pytest.fixture
def forecast(results: dict[str, Any]) -> dict[str, Any]:
    for behaviour in results["behaviours"]:
        behaviour["forecast"] = {
            "signal": 6.0,
            "signal_to_noise": 8.25,
            "agreement_documents": 0.91,
            "agreement_parts": 0.42,
            "agreement_whole_corpus": 0.5,
            "residual_on_prompts": 0.3,
            "warning": "too little text" if behaviour["name"] == "dogs" else None,
        }
    return results


def test_the_forecast_stands_beside_the_measured_ratio(forecast: dict[str, Any]) -> None:
    rows = {row[0]: row[1:] for row in forecast_table(forecast).rows}
    (dogs,) = (b for b in forecast["behaviours"] if b["name"] == "dogs")
    assert rows["dogs"] == ("stories", 8.25, 0.91, 0.42, 0.5, 0.3, dogs["ratio"], "too little text")
    assert rows["french"][-1] == ""


def test_a_forecast_may_lack_any_of_its_figures(forecast: dict[str, Any]) -> None:
    for behaviour in forecast["behaviours"]:
        behaviour["forecast"] = dict.fromkeys(behaviour["forecast"])
    behaviour["forecast"] |= {"signal": 6.0}
    assert {row[2:7] for row in forecast_table(forecast).rows} == {(None,) * 5}


def test_what_the_corpus_gives_away_stands_with_and_without_the_kind_of_text(results: dict[str, Any]) -> None:
    figures = {
        "share": 0.8,
        "share_chance": 0.001,
        "cosine_untrained": [0.8, 0.9],
        "native": 0.95,
        "untrained_native": [0.5, 0.7],
        "native_beyond": 0.6,
    }
    dogs, french, *_ = results["behaviours"]
    dogs["given_away"] = {
        "whole": figures,
        "part": "dogs",
        "without_part": figures | {"share": 0.1, "cosine_with_whole": 0.4},
        "fvu": 0.3,
        "fvu_untrained": [0.9, 1.1],
    }
    french["given_away"] = {"note": "rows do not span"}
    rows = given_away_table(results).rows
    name, other = (behaviour_name(b["name"]) for b in (dogs, french))
    assert [row[:2] for row in rows] == [(name, "whole"), (name, "without dogs"), (other, "rows do not span")]
    assert rows[0][2:] == pytest.approx((0.8, 0.85, 0.95, 0.6, 0.6, None, 0.3, 1.0))
    assert rows[1][2:] == pytest.approx((0.1, 0.85, 0.95, 0.6, 0.6, 0.4, None, None))
    assert set(map(len, rows)) == {len(given_away_table(results).columns)}
