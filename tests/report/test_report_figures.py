from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest

from lrt.report import strength_figure
from lrt.report.figures import UNITS, loss_figure, training_curve_figure
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


def test_damage_without_a_point_at_zero_starts_from_zero(results: dict[str, Any]) -> None:
    strip = strength_figure(results["behaviours"][0]).axes[1]
    for line in strip.lines[1:]:  # the first marks the chosen strength
        assert (0.0, 0.0) in set(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_figures_without_data_have_a_text_instead() -> None:
    assert len(texts(strength_figure({"name": "x"}))) == 1
    assert len(texts(loss_figure(None))) == 1
    assert training_curve_figure({"behaviour": "x"}).axes


def test_loss_has_the_line_of_the_reference_ridge(results: dict[str, Any]) -> None:
    axes = loss_figure(results["training"]).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines["reference ridge"].get_ydata()) == {0.4073}
    assert len(lines["validation"].get_ydata()) == 20


def test_a_loss_over_decades_is_on_a_log_scale_without_formulas() -> None:
    figure = loss_figure({"val": [[0, 5.0], [1, 0.02]]})
    assert figure.axes[0].get_yscale() == "log"
    assert "$" not in inline_svg(figure, "loss")


@pytest.mark.parametrize("unit", UNITS)
def test_strength_has_its_unit(results: dict[str, Any], unit: str) -> None:
    drawn = strength_figure(results["behaviours"][0] | {"strength_unit": unit})
    assert UNITS[unit] in drawn.axes[-1].get_xlabel()


def test_palettes_can_be_swapped() -> None:
    for palette in (LIGHT, DARK):
        assert len(set(palette.roles().values())) == len(palette.roles())


def test_inline_svg_follows_the_page(results: dict[str, Any]) -> None:
    before = dict(matplotlib.rcParams)
    svg = inline_svg(strength_figure(results["behaviours"][0]), "one")
    assert dict(matplotlib.rcParams) == before
    assert svg.startswith("<svg")
    assert "var(--fig-native)" in svg
    assert LIGHT.native not in svg
    assert "<metadata" not in svg
    assert 'id="figure' not in svg  # every id is the figure's own
    assert svg == inline_svg(strength_figure(results["behaviours"][0]), "one")


@pytest.mark.parametrize("name", ["$\\frac$", "a$b$", "</text><script>", 'font-family: x; id="y" style="'])
def test_a_hostile_name_stays_text(name: str) -> None:
    svg = inline_svg(strength_figure({"name": name}), "one")
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert len(ElementTree.fromstring(svg).findall(".//{*}script")) == 0
    assert any(text and text[:1] == name[:1] for text in texts)
