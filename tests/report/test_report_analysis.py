"""What the report says of layer pairs, ranks, fidelity, features and the forecast."""

import re
from typing import Any

import pytest

from lrt.report import page as pages
from lrt.report.analysis import (
    ATLAS,
    ON_TOKENS,
    analysis_tables,
    atlas_figure,
    atlas_metrics,
    atlas_table,
    cut_table,
    feature_table,
    fidelity_table,
    forecast_table,
    geometry_table,
    many_to_one_table,
    notes_table,
    pairs_table,
    rank_table,
    sae_table,
)


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def cost(parameters: int) -> dict[str, int]:
    return {"parameters": parameters, "flops_per_token": 2 * parameters}


@pytest.fixture
def analysed(results: dict[str, Any]) -> dict[str, Any]:
    ways = {way: {"r2": estimate(0.6), "fvu": estimate(0.4), "cosine": estimate(0.7)} for way in WAYS}
    steering = {name: {"mean": 0.5, "ratio": r, "ratio_ci": [r - 0.1, r + 0.1]} for name, r in RATIOS.items()}
    for behaviour in results["behaviours"]:
        behaviour["forecast"] = {
            "signal": 6.0,
            "signal_to_noise": 8.25,
            "optimistic_error": 0.5,
            "agreement_documents": 0.91,
            "agreement_parts": 0.42,
            "agreement_whole_corpus": 0.5,
            "residual_on_prompts": 0.3,
            "warning": "too little text" if behaviour["name"] == "dogs" else None,
        }
    return results | {
        "atlas": [
            {
                "source_layer": s,
                "target_layer": t,
                "fvu": 0.1 * (s + 1) + 0.01 * t,
                "cka": 0.5,
                "rank": 10 * s + t,
                "error_along": {"french": 0.5 - 0.1 * s, "dogs": 0.2 + 0.1 * s},
                "cosine": {"french": 0.9, "dogs": 0.6},
                "fvu_of": {"tokens": 0.3 + 0.1 * s, "unfiltered": 0.95},
            }
            for s in (0, 2)
            for t in (1, 3)
        ],
        "rank_curve": {
            "ranks": [1, 2, 4],
            "fvu": [0.8, 0.6, 0.41],
            "truncated_fvu": [0.95, 0.7, 0.41],
            "rank_95": 4,
        },
        "many_to_one": [
            {
                "target_layer": 3,
                "fvu_single": {"0": 0.5, "2": 0.4},
                "best_layer": 2,
                "fvu_best": 0.4,
                "fvu_all": 0.3,
                "gain": 0.25,
                "rise": {"0": 0.05, "2": 0.2},
                "share": {"0": 0.2, "2": 0.8},
            }
        ],
        "many_to_many": {"fvu": 0.33, "ridge_weight": 12.0, "fvu_layer": {"3": 0.31}},
        "notes": {"rank_curve": "<the widths> do not fit", "many_to_one": "needs 20 GB of memory"},
        "fidelity": {
            "layer": 3,
            "rows": [
                {
                    "name": name,
                    "fvu": None if name in ("target", "source") else 0.2,
                    "cross_entropy": estimate(ce),
                    "kl": None if name == "source" else estimate(0.3),
                    "agreement": None if name == "source" else estimate(0.8),
                    "loss_recovered": estimate(0.9),
                }
                for name, ce in (("target", 0.5), ("source", 0.6), ("full", 1.25))
            ],
            "stitching_depths": [
                {
                    "layer": 3,
                    "depth": 0.8,
                    "cross_entropy": estimate(1.5),
                    "cost": {
                        "stitched": cost(700_000),
                        "source": cost(600_000),
                        "target": cost(1_500_000),
                    },
                }
            ],
        },
        "sae": {
            **{
                side: {"layer": 2, "kind": "topk", "features": 64, "fvu": 0.2, "l0": 8.0, "dead": 0.1}
                for side in ("source", "target")
            },
            "geometry": {
                "pairs": 40,
                **{name: {**ways, "fitted": 20, "scored": 20} for name in ("matched", "random", "shuffled")},
            },
            "steering": [
                {
                    "behaviour": "french",
                    "layer": 3,
                    "strength": 0.5,
                    "share_of_vector": 0.8,
                    **steering,
                    "other_features": {"mean": 0.07, "p95": 0.1, "draws": 5},
                }
            ],
        },
    }


WAYS = ("forward", "backward")
RATIOS = {"s2l": 0.71, "l2l_features": 0.62, "l2l": 0.93}


def test_every_table_has_its_rows(analysed: dict[str, Any]) -> None:
    assert len(analysis_tables(analysed)) == 11
    assert {row[0]: row[3:6] for row in fidelity_table(analysed).rows}["source"] == (None, None, 0.9)
    assert [row[0] for row in cut_table(analysed).rows] == [
        "the source alone",
        "the target alone",
        "cut at block 3",
    ]
    assert rank_table(analysed).rows[1] == (2, 0.6, 0.7)
    assert len(sae_table(analysed).rows) == 2
    assert len(geometry_table(analysed).rows) == 6
    (steered,) = feature_table(analysed).rows
    assert [steered[i] for i in (4, 6, 8, 10)] == [0.71, 0.62, 0.93, 0.07]


def test_the_best_pair_of_each_vector(analysed: dict[str, Any]) -> None:
    found = {row[0]: row[1:4] for row in atlas_table(analysed).rows}
    assert found["french"][0] == 2
    assert found["french"][2] == pytest.approx(0.3)
    assert found["dogs"][0] == 0


def test_the_forecast_stands_beside_what_was_measured(analysed: dict[str, Any]) -> None:
    rows = {row[0]: row for row in forecast_table(analysed).rows}
    dogs = next(b for b in analysed["behaviours"] if b["name"] == "dogs")
    assert rows["dogs"][2:6] == (8.25, 12.0, 0.91, 0.42)
    assert rows["dogs"][6:8] == (0.5, 0.3)
    assert rows["dogs"][8] == dogs["ratio"]
    assert rows["dogs"][9] == "too little text"
    assert rows["french"][9] == ""


def test_a_forecast_may_lack_any_of_its_figures(analysed: dict[str, Any]) -> None:
    for behaviour in analysed["behaviours"]:
        behaviour["forecast"] = dict.fromkeys(behaviour["forecast"]) | {"optimistic_error": 0.5}
    behaviour["forecast"] |= {"signal": 6.0, "optimistic_error": None}
    table = forecast_table(analysed)
    assert {row[2:8] for row in table.rows} == {(None,) * 6}
    assert table.markdown().count("–") >= 6 * len(table.rows)


def test_all_source_blocks_beside_each_and_all_to_all_at_once(analysed: dict[str, Any]) -> None:
    table = many_to_one_table(analysed)
    assert dict(zip(table.columns, table.rows[0], strict=True)) == {
        "to": "block 3",
        "FVU, block 0 alone": 0.5,
        "FVU, block 2 alone": 0.4,
        "all": 0.3,
        "all to all at once": 0.31,
        "gain over the best": 0.25,
        "rise without 0": 0.05,
        "rise without 2": 0.2,
        "share of 0": 0.2,
        "share of 2": 0.8,
    }
    del analysed["many_to_many"]
    assert "all to all at once" not in many_to_one_table(analysed).columns


def test_fidelity_tells_how_maps_were_fitted_and_which_could_not_be(analysed: dict[str, Any]) -> None:
    assert "how it was fitted" not in fidelity_table(analysed).columns
    analysed["fidelity"]["rows"][2]["note"] = "ridge regression, exact"
    table = fidelity_table(analysed)
    assert table.columns[-1] == "how it was fitted"
    assert {row[0]: row[-1] for row in table.rows} == {
        "target": "",
        "source": "",
        "full": "ridge regression, exact",
    }
    analysed["fidelity"]["notes"] = {"orthogonal penalty .1": "did not converge in 5000 steps"}
    *_, (name, *figures, why) = fidelity_table(analysed).rows
    assert (name, why) == ("orthogonal penalty .1", "did not converge in 5000 steps")
    assert figures == [None] * 6
    assert len(fidelity_table(analysed).rows) == 4


def test_what_could_not_be_made_heads_the_analyses(analysed: dict[str, Any], results: dict[str, Any]) -> None:
    first = analysis_tables(analysed)[0]
    assert first.rows == (("rank curve", "<the widths> do not fit"), ("many to one", "needs 20 GB of memory"))
    assert notes_table(results).rows == ()


@pytest.mark.parametrize("metric", ATLAS)
def test_an_atlas_has_a_cell_for_every_pair(analysed: dict[str, Any], metric: str) -> None:
    (axes,) = atlas_figure(analysed, metric).axes
    assert len(axes.patches) == 4
    # less is better but for CKA, where all are alike here
    heights = [patch.get_alpha() for patch in axes.patches]
    if metric == "fvu":
        assert heights[0] == max(heights)
        assert heights[-1] == min(heights)


def test_every_pair_is_told_with_massive_activations_and_without(analysed: dict[str, Any]) -> None:
    table = pairs_table(analysed)
    tokens, unfiltered = (table.columns.index(name) for name in ON_TOKENS.values())
    assert [row[:2] for row in table.rows] == [(0, 1), (0, 3), (2, 1), (2, 3)]
    assert [row[tokens] for row in table.rows] == pytest.approx([0.3, 0.3, 0.5, 0.5])
    assert {row[unfiltered] for row in table.rows} == {0.95}
    # of an atlas without a store there are no single tokens, and no empty heatmap of them
    for cell in analysed["atlas"]:
        del cell["fvu_of"]
    assert set(ATLAS) - set(atlas_metrics(analysed)) == {"tokens", "unfiltered"}
    assert not set(ON_TOKENS.values()) & set(pairs_table(analysed).columns)


def test_the_page_shows_it_all_and_nothing_of_what_is_not_there(
    analysed: dict[str, Any], results: dict[str, Any]
) -> None:
    html = pages.page(analysed)
    headings = [f'id="{heading}"' for heading in ("notes", "forecast", "fidelity", "atlas", "features")]
    places = [html.index(heading) for heading in headings]
    assert places == sorted(places)
    assert "&lt;the widths&gt; do not fit" in html
    for title in ATLAS.values():
        assert title in html
    assert "Stitched" in pages.markdown(analysed)
    assert not re.search(r'id="(notes|atlas|fidelity|features)"', pages.page(results))


def test_geometry_that_has_too_few_pairs_says_so(analysed: dict[str, Any]) -> None:
    analysed["sae"]["geometry"] |= {"random": None, "random_pairs": 3}
    rows = {row[0]: row for row in geometry_table(analysed).rows}
    assert len(geometry_table(analysed).rows) == 5
    assert rows["random decoders, matched alike"][1:] == ("too few pairs: 3", None, None, None, None, None)
    assert "too few pairs: 3" in pages.markdown(analysed)
    analysed["sae"]["geometry"] = {"note": "9 pairs of features are too few"}
    ((what, said, *none),) = geometry_table(analysed).rows
    assert (what, said) == ("features matched by co-activation", "9 pairs of features are too few")
    assert none == [None] * 5
    assert "9 pairs of features are too few" in pages.markdown(analysed)
