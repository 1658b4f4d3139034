from __future__ import annotations

import copy
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lrt.report import comparison_warnings, difference_table, differences, separations, write_comparison
from lrt.report.comparison import Difference
from lrt.report.comparison_page import settings_table, unbounded_table

Pair = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture
def two(results: dict[str, Any]) -> Pair:
    """Two runs of two behaviours; in the second, french transfers worse."""
    results["behaviours"] = [b for b in results["behaviours"] if b["name"] in ("french", "brave")]
    other = copy.deepcopy(results)
    other["behaviours"][0] |= {"ratio": 0.5, "ratio_ci": [0.45, 0.55], "ratio_ci_map": None}
    return results, other


def difference(
    a: float, a_bounds: tuple[float, float], b: float, b_bounds: tuple[float, float]
) -> Difference:
    return Difference("french", "transfer ratio", (a, b), (a_bounds, b_bounds), True)


def test_the_interval_of_a_difference_of_means_is_the_textbooks() -> None:
    """Of symmetric intervals: half its width is the root of the sum of the squared halves."""
    each = difference(0.9, (0.8, 1.0), 0.5, (0.3, 0.7))
    assert each.interval == pytest.approx((-0.4 - math.hypot(0.1, 0.2), -0.4 + math.hypot(0.1, 0.2)))
    assert each.separated


def test_skew_and_order_of_the_runs() -> None:
    skewed = difference(0.5, (0.1, 0.6), 0.8, (0.78, 1.5))
    assert skewed.interval == pytest.approx((0.3 - math.hypot(0.1, 0.02), 0.3 + math.hypot(0.4, 0.7)))
    back = difference(0.8, (0.78, 1.5), 0.5, (0.1, 0.6))
    assert back.interval == pytest.approx(tuple(-bound for bound in reversed(skewed.interval)))


@pytest.mark.parametrize(
    ("b", "bounds", "separated"),
    [
        (0.9, (0.8, 1.0), False),  # the same run twice
        (0.77, (0.67, 0.87), False),  # the intervals overlap by a third
        (0.72, (0.62, 0.82), True),  # they overlap, and yet the difference does not hold 0
        (0.9, (0.95, 1.1), False),  # an interval beside its own value is not turned inside out
    ],
)
def test_what_the_intervals_separate(b: float, bounds: tuple[float, float], separated: bool) -> None:
    each = difference(0.9, (0.8, 1.0), b, bounds)
    assert each.separated is separated
    low, high = each.interval
    assert low <= each.value <= high


def test_every_quantity_that_both_runs_have_with_an_interval(two: Pair) -> None:
    found = {(each.behaviour, each.quantity): each for each in differences(*two)}
    assert found["french", "transfer ratio"].separated
    assert ("french", "transfer ratio, with the map") not in found  # of B there is none
    assert ("brave", "slope ratio") in found
    assert ("french", "slope ratio") not in found
    assert not found["brave", "transfer ratio"].separated
    assert [key for key, each in found.items() if each.separated] == [("french", "transfer ratio")]
    (_, apart), (_, not_apart) = separations([*found.values()])
    assert "transfer ratio of french" in apart
    assert "transfer ratio of brave" in not_apart
    rows = {row[:2]: row for row in difference_table([*found.values()]).rows}
    assert rows["french", "transfer ratio"][-1] == "yes"
    assert rows["brave", "transfer ratio"][-1] == "no"


def test_runs_that_are_not_alike_say_so(two: Pair) -> None:
    a, b = two
    assert comparison_warnings(a, b) == []
    b["split"] = "development"
    b["behaviours"][0] |= {"items": 32, "metric": "another", "strength_unit": "share"}
    a["behaviours"][0]["strength_unit"] = "residual_norm"
    b["behaviours"][1]["name"] = "new"
    text = "\n".join(comparison_warnings(a, b))
    for said in ("development", "64 in A, 32 in B", "another in B", "share in B", "in A: brave", "in B: new"):
        assert said in text
    assert comparison_warnings({}, {}) == []


def test_settings_that_differ_by_their_paths(two: Pair) -> None:
    a, b = two
    b["provenance"]["config"] = "pair: small-to-large\nlayers:\n  source: [1, 2]\n  target: 4\nseed: null\n"
    assert settings_table(a, b).rows == (("layers.target", "3", "4"), ("seed", "–", "None"))
    assert settings_table(a, a).rows == ()
    for text in (None, "", "- [", "just text"):
        b["provenance"]["config"] = text
        assert settings_table(b, b).rows == ()
        assert settings_table(a, b).rows


def test_what_has_no_interval_is_shown_apart(two: Pair) -> None:
    rows = {row[:2]: row[2:] for row in unbounded_table(*two).rows}
    assert rows["french", "damage, transferred"] == ("4.8%", "4.8%")
    assert rows["map", "FVU"] == (0.4123, 0.4123)


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self.tags.append(tag)


def test_the_page_and_its_record(two: Pair, tmp_path: Path) -> None:
    evil = "<img src=x>"
    for run in two:
        run["behaviours"][1] |= {"name": evil, "metric": evil}
    page = write_comparison(*two, (evil, "B"), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compare.html", "compare.json", "compare.md"]
    tags = Tags(page.read_text()).tags
    assert "img" not in tags
    assert tags.count("script") == 1
    assert "<img" not in (tmp_path / "compare.md").read_text()
    record = json.loads((tmp_path / "compare.json").read_text())
    assert record["runs"] == {"A": evil, "B": "B"}
    (apart,) = (each for each in record["differences"] if each["separated"])
    assert (apart["behaviour"], apart["quantity"]) == ("french", "transfer ratio")
    assert apart["B"] == {"value": 0.5, "ci": [0.45, 0.55]}
    assert apart["ci"][1] < 0


def test_parts_may_be_missing(two: Pair, tmp_path: Path) -> None:
    bare = {"behaviours": [{"name": "french", "ratio": None, "native": 0.5, "unsteered": None}]}
    for pair in ((two[0], bare), (bare, two[0]), ({}, {}), (bare, bare)):
        assert "None" not in write_comparison(*pair, ("A", "B"), tmp_path).read_text().split("<main")[1]
