"""Tables and figures of layer pairs, ranks, fidelity and features."""

import re
from typing import Any

import pytest

from lrt.report import page as pages
from lrt.report.feature_tables import feature_table, geometry_table, sae_table
from lrt.report.fidelity_tables import fidelity_table, stitching_table
from lrt.report.layer_tables import (
    ATLAS,
    ON_TOKENS,
    atlas_figure,
    atlas_metrics,
    atlas_table,
    many_to_one_table,
    pairs_table,
    rank_table,
)


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def cost(parameters: int) -> dict[str, int]:
    return {"parameters": parameters, "flops_per_token": 2 * parameters}


@pytest.fixture
def analysed(results: dict[str, Any]) -> dict[str, Any]:
    ways = {way: {"r2": estimate(0.6), "fvu": estimate(0.4), "cosine": estimate(0.7)} for way in WAYS}
    steering = {name: {"mean": 0.5, "ratio": r, "ratio_ci": [r - 0.1, r + 0.1]} for name, r in RATIOS.items()}
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


def test_ranks_and_stitched_models(analysed: dict[str, Any]) -> None:
    assert rank_table(analysed).rows[1] == (2, 0.6, 0.7)
    assert [row[0] for row in stitching_table(analysed).rows] == [
        "source alone",
        "target alone",
        "stitched at layer 3",
    ]


def test_the_best_pair_of_each_vector(analysed: dict[str, Any]) -> None:
    pairs = {row[0]: row[1:4] for row in atlas_table(analysed).rows}
    assert pairs["french"][0] == 2
    assert pairs["french"][2] == pytest.approx(0.3)
    assert pairs["dogs"][0] == 0


def test_all_source_layers_together_and_each_alone(analysed: dict[str, Any]) -> None:
    table = many_to_one_table(analysed)
    assert dict(zip(table.columns, table.rows[0], strict=True)) == {
        "target": "layer 3",
        "FVU, layer 0 alone": 0.5,
        "FVU, layer 2 alone": 0.4,
        "FVU, all layers": 0.3,
        "FVU, all layers to all": 0.31,
        "gain over the best": 0.25,
        "rise without layer 0": 0.05,
        "rise without layer 2": 0.2,
        "share of layer 0": 0.2,
        "share of layer 2": 0.8,
    }
    del analysed["many_to_many"]
    assert "FVU, all layers to all" not in many_to_one_table(analysed).columns


def test_fidelity_names_the_maps_that_could_not_be_fitted(analysed: dict[str, Any]) -> None:
    table = fidelity_table(analysed)
    assert {row[0]: row[3:6] for row in table.rows}["source"] == (None, None, 0.9)
    assert "how it was fitted" not in table.filled().columns
    analysed["fidelity"]["rows"][2]["note"] = "ridge regression, exact"
    analysed["fidelity"]["notes"] = {"orthogonal penalty .1": "did not converge in 5000 steps"}
    rows = fidelity_table(analysed).rows
    assert [row[-1] for row in rows] == ["", "", "ridge regression, exact", "did not converge in 5000 steps"]
    assert rows[-1][:-1] == ("orthogonal penalty .1", *[None] * 6)


@pytest.mark.parametrize("metric", ATLAS)
def test_an_atlas_has_a_cell_for_every_pair(analysed: dict[str, Any], metric: str) -> None:
    (axes,) = atlas_figure(analysed, metric).axes
    assert axes.get_title(loc="left") == ATLAS[metric]
    heights = [patch.get_alpha() for patch in axes.patches]
    assert len(heights) == 4
    if metric == "fvu":  # less is better
        assert heights[0] == max(heights)
        assert heights[-1] == min(heights)


def test_single_tokens_with_and_without_massive_activations(analysed: dict[str, Any]) -> None:
    table = pairs_table(analysed)
    tokens, unfiltered = (table.columns.index(name) for name in ON_TOKENS.values())
    assert [row[:2] for row in table.rows] == [(0, 1), (0, 3), (2, 1), (2, 3)]
    assert [row[tokens] for row in table.rows] == pytest.approx([0.3, 0.3, 0.5, 0.5])
    assert {row[unfiltered] for row in table.rows} == {0.95}
    # an atlas without a store has no single tokens, and no empty heatmap of them
    for cell in analysed["atlas"]:
        del cell["fvu_of"]
    assert set(ATLAS) - set(atlas_metrics(analysed)) == {"tokens", "unfiltered"}
    assert not set(ON_TOKENS.values()) & set(pairs_table(analysed).columns)


def test_features(analysed: dict[str, Any]) -> None:
    assert len(sae_table(analysed).rows) == 2
    assert len(geometry_table(analysed).rows) == 6
    (steered,) = feature_table(analysed).rows
    assert [steered[i] for i in (4, 6, 8, 10)] == [0.71, 0.62, 0.93, 0.07]


def test_geometry_with_too_few_pairs_says_so(analysed: dict[str, Any]) -> None:
    analysed["sae"]["geometry"] |= {"random": None, "random_pairs": 3}
    table = geometry_table(analysed)
    rows = {row[0]: row[1:] for row in table.rows}
    assert len(table.rows) == 5
    assert rows["random decoders, matched alike"] == ("too few pairs: 3", None, None, None, None, None)
    analysed["sae"]["geometry"] = {"note": "9 pairs of features are too few"}
    ((_, note, *cells),) = geometry_table(analysed).rows
    assert note == "9 pairs of features are too few"
    assert cells == [None] * 5


def test_the_page_has_a_section_for_every_analysis_that_was_run(analysed: dict[str, Any]) -> None:
    # few drawings: they take the time
    analysed["behaviours"] = [{**b, "curves": {}, "forecast": {}} for b in analysed["behaviours"][:1]]
    analysed["behaviours"][0]["forecast"] = {"signal_to_noise": 8.0}
    analysed |= {"maps": [], "training": {}}
    html = pages.page(analysed)
    places = [html.index(f'id="{name}"') for name in ("notes", "forecast", "fidelity", "atlas", "features")]
    assert places == sorted(places)
    assert "&lt;the widths&gt; do not fit" in html
    for title in ATLAS.values():
        assert title in html
    assert not re.search(r'id="(notes|atlas|fidelity|features)"', pages.page({"behaviours": []}))
