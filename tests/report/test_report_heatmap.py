from __future__ import annotations

from typing import Any

import pytest
from matplotlib.patches import Rectangle

from lrt.report.heatmap import grid_figure, layer_grid, models_of, size_grid


def texts(figure: Any) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


def test_layers_of_one_pair(sweep_rows: list[dict[str, Any]]) -> None:
    grid = layer_grid(sweep_rows[:9], "mean_ratio")
    assert grid.rows == ("1", "2", "3")
    assert grid.columns == ("2", "3", "4")
    assert grid.failed == {("2", "3")}
    assert ("2", "3") not in grid.values
    drawn = texts(grid_figure(grid, lower_is_better=False, in_percent=True))
    assert len(drawn) == 9
    assert sum(text.endswith("%") for text in drawn) == 8


@pytest.mark.parametrize(("metric", "lower", "best"), [("fvu", True, min), ("mean_ratio", False, max)])
def test_stronger_colour_is_better(
    sweep_rows: list[dict[str, Any]], metric: str, lower: bool, best: Any
) -> None:
    rows = [r for r in sweep_rows[:9] if r["status"] == "ok"]
    figure = grid_figure(layer_grid(rows, metric), lower_is_better=lower)
    patches = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    # cells are drawn in the order of the rows, without the empty one
    strongest = max(range(len(patches)), key=lambda i: patches[i].get_alpha())
    assert rows[strongest][metric] == best(row[metric] for row in rows)


def test_models_of_many_pairs_take_their_best_layers(sweep_rows: list[dict[str, Any]]) -> None:
    jobs = [r for r in sweep_rows[:9] if r["status"] == "ok"]
    grid = size_grid(sweep_rows, "mean_ratio")
    assert grid.rows == ("small", "tiny")
    assert grid.values["small", "large"] == max(r["mean_ratio"] for r in jobs)
    assert size_grid(sweep_rows, "fvu").values["small", "large"] == min(r["fvu"] for r in jobs)
    assert not grid.failed  # one job of the pair failed, others did not
    assert len(texts(grid_figure(grid, lower_is_better=False))) == 3


@pytest.mark.parametrize(
    ("row", "models"),
    [
        ({"pair": "small_to_large"}, ("small", "large")),
        ({"pair": "a-1b->b-3b"}, ("a-1b", "b-3b")),
        ({"pair": "small-large"}, ("small", "large")),
        ({"pair": "x", "source": "s", "target": "t"}, ("s", "t")),
        ({"pair": "gemma"}, ("gemma", "")),
        ({"pair": "/data/a -> /data/b"}, ("/data/a", "/data/b")),
    ],
)
def test_models_of_a_pair(row: dict[str, str], models: tuple[str, str]) -> None:
    assert models_of(row) == models
