from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrt.errors import UserError
from lrt.report import ReportUnwritable, write_report
from lrt.report.behaviour_section import RATIO_AXIS
from lrt.report.page import markdown, page
from lrt.report.plain import plain

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag closed out of order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.stack: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & {*self.stack}:
            self.text += data


def parsed(html: str) -> Page:
    result = Page(html)
    assert result.stack == []
    return result


@pytest.fixture
def two(results: dict[str, Any]) -> dict[str, Any]:
    """The same with one text behaviour and one choice: quicker to draw."""
    names = ("french", "brave")
    return {**results, "behaviours": [b for b in results["behaviours"] if b["name"] in names]}


@pytest.fixture
def undrawn(two: dict[str, Any]) -> dict[str, Any]:
    """The two without drawings: they take the time, and are tested elsewhere."""
    return {
        **two,
        "behaviours": [{**b, "curves": {}} for b in two["behaviours"]],
        "training": {},
        "maps": [{**m, "training": {}} for m in two["maps"]],
    }


def test_a_whole_report(results: dict[str, Any], tmp_path: Path) -> None:
    names = ("french", "refusal_removed", "night_owl")
    results["behaviours"] = [b for b in results["behaviours"] if b["name"] in names]
    path = write_report(results, tmp_path)
    assert path == tmp_path / "index.html"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "report.md", "results.json"]
    assert json.loads((tmp_path / "results.json").read_text()) == results
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"\| french \| 3 \| 0\.750 \| 0\.020 \| 0\.970 \| 0\.950 \|", text)
    html = path.read_text()
    whole = parsed(html)
    for b in results["behaviours"]:
        assert whole.text.count(b["name"].replace("_", " ")) >= 2
        assert b["metric"] in whole.text
    for shown in ("87% to 98%", results["behaviours"][-1]["note"], "le petit renard retrouva Anna"):
        assert shown in whole.text
    assert "trait questions right" in whole.text
    assert "✗" in whole.text
    assert "b1946ac92492d234" in whole.text
    # one file: no requests, and no script but the page's own
    assert [tag for tag, _ in whole.tags].count("script") == 1
    assert not {tag for tag, _ in whole.tags} & {"link", "img", "iframe", "object", "embed"}
    for _, attributes in whole.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"@import|url\((?!#)", html)
    assert "prefers-color-scheme: dark" in html
    ids = [attributes["id"] for _, attributes in whole.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>&\"'",
    "`<img src=x>` | [a](javascript:b) ![c](http://d) **e** $f$\n\n# g\n<!-- h",
)


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_text_stays_text(two: dict[str, Any], evil: str) -> None:
    two = copy.deepcopy(two)
    french = two["behaviours"][0]
    french["examples"][0]["prompt"] = evil
    french["examples"][0]["texts"][1]["text"] = evil
    french |= {"name": evil, "metric": evil, "note": evil, "map": evil}
    french["forecast"] = {"warning": evil}
    two["pair"]["source"]["name"] = evil
    two["models"][0] |= {"name": evil, "note": evil}
    two["maps"][0] |= {"name": evil}
    two["maps"][1]["fitted_for"] = [evil]
    two["map"] |= {"kind": evil, "note": evil, "rows_excluded_by": {evil: 1}}
    two["maps"][1]["training"]["steering_evaluations"][0]["behaviour"] = evil
    two["notes"] = {evil: evil}
    two["provenance"] |= {"config": evil, "command": evil}
    whole = parsed(page(two))
    assert [tag for tag, _ in whole.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in whole.tags}
    assert not any("onerror" in attributes for _, attributes in whole.tags)
    assert whole.text.count(evil) >= 8
    text = markdown(two)
    assert not re.search(r"[<>]", text)
    assert not re.search(r"(?<!\\)[`$\[]", text)
    body = text.split("\n", 1)[1]
    assert not re.search(r"^#", body, re.MULTILINE)
    for line in text.splitlines():
        if not re.match(r"\*\*.*\*\*$", line):
            assert not re.search(r"(?<!\\)\*", line)


def test_a_share_beyond_the_axis_is_an_arrow_at_its_end(undrawn: dict[str, Any]) -> None:
    low, high = RATIO_AXIS
    first, second = undrawn["behaviours"]
    first |= {"ratio": 0.9, "ratio_ci": [low - 1, high + 1], "ratio_ci_map": None}
    first["nulls"] = {"untrained_source": high + 0.2, "random": 0.1}
    second |= {"ratio": high + 1, "ratio_ci": None, "ratio_ci_map": None, "nulls": {}}
    marks = [a for tag, a in parsed(page(undrawn)).tags if tag == "i" and "class" in a]
    classes = [(a["class"] or "").strip() for a in marks]
    assert classes.count("null right") == 1
    assert classes.count("null") == 1
    assert classes.count("end left") == classes.count("end right") == 1
    assert classes.count("dot right") == 1
    for style in (a.get("style") or "" for a in marks):
        left, width = (re.search(rf"{key}:([\d.]+)%", style) for key in ("left", "width"))
        end = float(left[1] if left else 0) + float(width[1] if width else 0)
        assert end <= 100.01


def test_parts_may_be_missing(undrawn: dict[str, Any], tmp_path: Path) -> None:
    for part in undrawn:
        for value in ({k: v for k, v in undrawn.items() if k != part}, {**undrawn, part: None}):
            assert "None" not in parsed(page(value)).text
            assert "None" not in markdown(value)
    write_report({}, tmp_path)
    assert parsed((tmp_path / "index.html").read_text()).text


def test_a_bare_behaviour_and_a_real_models_card() -> None:
    """The results of a pair without checks, nulls, damage, curves or a gradient fit."""
    bare = {"name": "french", "ratio": None, "native": 0.5, "transferred": 0.4, "unsteered": 0.1}
    results = {
        "behaviours": [bare],
        "models": [{"name": "hub/model", "parameters": 494_000_000, "checks": []}],
        "training": {"train": [], "val": [], "optimum": 0.4, "steering_evaluations": []},
        "seconds": {"record": None},
    }
    text = parsed(page(results)).text
    assert "494M" in text
    assert "Undefined" not in text


def test_not_a_number_is_written_as_null(undrawn: dict[str, Any], tmp_path: Path) -> None:
    undrawn["behaviours"][1]["propensity"]["paper_r"][0] = float("nan")
    undrawn["map"]["fvu"] = np.float32(0.5)
    write_report(undrawn, tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["behaviours"][1]["propensity"]["paper_r"][0] is None
    assert record["map"]["fvu"] == 0.5
    assert not re.search(r"\bnan\b", parsed((tmp_path / "index.html").read_text()).text)


def test_data_that_is_not_plain_is_refused_with_its_place() -> None:
    with pytest.raises(TypeError, match=r"results\.a\[1\]"):
        plain({"a": [1, object()]})
    assert plain({"a": np.array([1.5, np.inf]), "b": Path("x")}) == {"a": [1.5, None], "b": "x"}


def test_an_unwritable_folder_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here already")
    with pytest.raises(ReportUnwritable, match=r"report\.folder=") as caught:
        write_report({}, tmp_path / "file" / "report", setting="report.folder")
    assert isinstance(caught.value, UserError)
    assert str(tmp_path / "file") in str(caught.value)


def test_a_failed_write_leaves_the_old_page_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report({}, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ReportUnwritable):
        write_report({"seconds": {"record": 1.0}}, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
