from __future__ import annotations

from typing import Any

import matplotlib
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from lrt.report import heatmap_figure, loss_figure, strength_figure, training_curve_figure
from lrt.report.heatmap import layer_grid, models_of, size_grid
from lrt.report.palette import DARK, LIGHT
from lrt.report.svg import inline_svg


def texts(figure: Any) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


def test_strength_lines_are_the_curves_and_the_choice_is_marked(results: dict[str, Any]) -> None:
    summary = results["behaviours"][0]
    axes = strength_figure(summary).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for name, label in (("native", "native"), ("transferred", "transferred")):
        points = summary["curves"][name]
        assert list(lines[label].get_xdata()) == [p["strength"] for p in points]
        assert list(lines[label].get_ydata()) == [p["mean"] for p in points]
    assert len(axes.collections) == 5  # a band each
    assert list(axes.lines[-1].get_xdata()) == [0.75, 0.75]


def test_damage_of_a_curve_without_zero_starts_from_none(results: dict[str, Any]) -> None:
    strip = strength_figure(results["behaviours"][0]).axes[1]
    for line in strip.lines[1:]:  # the first marks the chosen strength
        assert (0.0, 0.0) in set(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_figures_without_data_say_so() -> None:
    assert texts(strength_figure({"name": "x"})) == ["no curve was measured"]
    assert "not fitted by gradient" in texts(loss_figure(None))[0]
    assert training_curve_figure({"behaviour": "x"}).axes


def test_loss_has_the_optimum_line(results: dict[str, Any]) -> None:
    axes = loss_figure(results["training"]).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines["ridge optimum"].get_ydata()) == {0.4073}
    assert len(lines["validation"].get_ydata()) == 20


def test_what_is_ablated_has_another_unit(results: dict[str, Any]) -> None:
    units = {
        "residual_norm": "in median residual norms",
        "absolute": "length of what is added",
        "share": "share of the component",
    }
    for unit, told in units.items():
        drawn = strength_figure(results["behaviours"][0] | {"strength_unit": unit})
        assert told in drawn.axes[-1].get_xlabel()


def test_dark_figures_use_the_dark_palette_and_settings_stay(results: dict[str, Any]) -> None:
    before = dict(matplotlib.rcParams)
    light, dark = (strength_figure(results["behaviours"][0], dark=d) for d in (False, True))
    assert to_hex(light.get_facecolor()) == LIGHT.surface
    assert to_hex(dark.get_facecolor()) == DARK.surface
    inline_svg(light, "a")
    assert dict(matplotlib.rcParams) == before


def test_palettes_can_be_swapped() -> None:
    for palette in (LIGHT, DARK):
        assert len(set(palette.roles().values())) == len(palette.roles())


def test_inline_svg_follows_the_page(results: dict[str, Any]) -> None:
    svg = inline_svg(strength_figure(results["behaviours"][0]), "one")
    assert svg.startswith("<svg")
    assert "var(--fig-native)" in svg
    assert LIGHT.native not in svg
    assert "<metadata" not in svg
    assert 'id="figure' not in svg  # every id is the figure's own
    assert svg == inline_svg(strength_figure(results["behaviours"][0]), "one")


def test_heatmap_of_one_pair_is_over_layers(sweep_rows: list[dict[str, Any]]) -> None:
    rows = sweep_rows[:9]
    grid = layer_grid(rows, "mean_ratio")
    assert grid.rows == ("1", "2", "3")
    assert grid.columns == ("2", "3", "4")
    assert grid.failed == {("2", "3")}
    assert ("2", "3") not in grid.values
    figure = heatmap_figure(rows, "mean_ratio")
    assert texts(figure).count("failed") == 1
    assert len(texts(figure)) == 9


@pytest.mark.parametrize(("metric", "best"), [("fvu", min), ("r2", max), ("french", max)])
def test_darker_is_better(sweep_rows: list[dict[str, Any]], metric: str, best: Any) -> None:
    rows = [r for r in sweep_rows[:9] if r["status"] == "ok"]
    values = [r[metric] if metric in r else r["ratios"][metric] for r in rows]
    figure = heatmap_figure(rows, metric)
    patches = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    # cells are drawn in the order of the rows, the empty one left out
    darkest = max(range(len(patches)), key=lambda i: patches[i].get_alpha())
    assert values[darkest] == best(values)


def test_heatmap_of_many_pairs_takes_the_best_layers(sweep_rows: list[dict[str, Any]]) -> None:
    grid = size_grid(sweep_rows, "mean_ratio")
    assert grid.rows == ("small", "tiny")
    mine = [r["mean_ratio"] for r in sweep_rows[:9] if r["status"] == "ok"]
    assert grid.values["small", "large"] == max(mine)
    assert not grid.failed  # one job of the pair failed, others did not
    assert len(texts(heatmap_figure(sweep_rows, "mean_ratio"))) == 3


def test_models_of_a_pair() -> None:
    assert models_of({"pair": "small_to_large"}) == ("small", "large")
    assert models_of({"pair": "a-1b->b-3b"}) == ("a-1b", "b-3b")
    assert models_of({"pair": "small-large"}) == ("small", "large")
    assert models_of({"pair": "x", "source": "s", "target": "t"}) == ("s", "t")
    assert models_of({"pair": "gemma"}) == ("gemma", "")
    assert models_of({"pair": "google/g-2b -> google/g-9b"}) == ("google/g-2b", "google/g-9b")
    assert models_of({"pair": "/data/a -> /data/b"}) == ("/data/a", "/data/b")
