from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrt.report import ReportUnwritable, write_report
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
        if "style" not in self.stack:
            self.text += data


def read(folder: Path) -> Page:
    page = Page((folder / "index.html").read_text())
    assert page.stack == []
    return page


@pytest.fixture
def two(results: dict[str, Any]) -> dict[str, Any]:
    """The same with one text behaviour and one choice: quicker to draw."""
    names = ("french", "brave")
    return {**results, "behaviours": [b for b in results["behaviours"] if b["name"] in names]}


def test_the_page_tells_every_behaviour_and_asks_for_nothing(results: dict[str, Any], tmp_path: Path) -> None:
    path = write_report(results, tmp_path)
    assert path == tmp_path / "index.html"
    page = read(tmp_path)
    for b in results["behaviours"]:
        assert page.text.count(b["name"].replace("_", " ")) >= 2
        assert b["metric"] in page.text
    assert "64% to 98%" in page.text
    assert "The same texts by other scorers" in page.text
    assert "native does not steer" in page.text
    assert "le petit renard retrouva Anna" in page.text
    assert "trait questions right" in page.text
    assert "✗ missed" in page.text
    assert "b1946ac92492d234" in page.text
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed"}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    html = path.read_text()
    assert not re.search(r"@import|url\((?!#)", html)
    assert "prefers-color-scheme: dark" in html
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "report.md", "results.json"]


def test_results_come_back_as_they_went_in(two: dict[str, Any], tmp_path: Path) -> None:
    write_report(two, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == two


def test_markdown_has_the_tables(two: dict[str, Any], tmp_path: Path) -> None:
    write_report(two, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"\| french \| 3 \| 0\.750 \| 0\.020 \| 0\.970 \| 0\.950 \|", text)
    for title in ("Transfer by behaviour", "Multiple-choice propensity", "The models' checks"):
        assert f"**{title}**" in text


def test_hostile_text_stays_text(two: dict[str, Any], tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>&\"'"
    two = copy.deepcopy(two)
    french = two["behaviours"][0]
    french["examples"][0]["prompt"] = evil
    french["examples"][0]["texts"][1]["text"] = evil
    french |= {"name": evil, "metric": evil, "note": evil}
    two["pair"]["source"]["name"] = evil
    two["models"][0] |= {"name": evil, "note": evil}
    two["training"]["steering_evaluations"][0]["behaviour"] = evil
    two["provenance"] |= {"config": evil, "command": evil}
    write_report(two, tmp_path)
    page = read(tmp_path)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert page.text.count(evil) >= 8


def test_parts_may_be_missing(two: dict[str, Any], tmp_path: Path) -> None:
    # few drawings: they take the time, and are tried elsewhere
    quick = {
        **two,
        "behaviours": [{**b, "curves": {}} for b in two["behaviours"]],
        "training": {**two["training"], "steering_evaluations": two["training"]["steering_evaluations"][:1]},
    }
    for number, part in enumerate(quick):
        for value in ({k: v for k, v in quick.items() if k != part}, {**quick, part: None}):
            folder = tmp_path / f"{number}-{part in value}"
            write_report(value, folder)
            assert "None" not in read(folder).text
    write_report({}, tmp_path / "empty")
    assert "No behaviour was measured." in read(tmp_path / "empty").text


def test_a_bare_behaviour_and_a_real_models_card(tmp_path: Path) -> None:
    """What is there for a pair without checks, nulls, damage, curves or a gradient fit."""
    bare = {"name": "french", "ratio": None, "native": 0.5, "transferred": 0.4, "unsteered": 0.1}
    write_report(
        {
            "behaviours": [bare],
            "models": [{"name": "hub/model", "parameters": 494_000_000, "checks": []}],
            "training": {"train": [], "val": [], "optimum": 0.4, "steering_evaluations": []},
            "seconds": {"record": None},
        },
        tmp_path,
    )
    page = read(tmp_path)
    assert "no ratio" in page.text
    assert "494M" in page.text
    assert "Undefined" not in page.text


def test_not_a_number_is_written_as_null(two: dict[str, Any], tmp_path: Path) -> None:
    two = copy.deepcopy(two)
    two["behaviours"][1]["propensity"]["paper_r"][0] = float("nan")
    two["map"]["fvu"] = np.float32(0.5)
    write_report(two, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["behaviours"][1]["propensity"]["paper_r"][0] is None
    assert found["map"]["fvu"] == 0.5
    assert not re.search(r"\bnan\b", read(tmp_path).text)


def test_what_is_not_plain_is_refused_by_its_place() -> None:
    with pytest.raises(TypeError, match=r"results\.a\[1\] is a object"):
        plain({"a": [1, object()]})
    assert plain({"a": np.array([1.5, np.inf]), "b": Path("x")}) == {"a": [1.5, None], "b": "x"}


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here already")
    with pytest.raises(ReportUnwritable, match=r"Not a directory.*report.folder=") as caught:
        write_report({}, tmp_path / "file" / "report", setting="report.folder")
    assert str(tmp_path / "file") in str(caught.value)


def test_a_failed_write_leaves_the_old_page_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report({}, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ReportUnwritable, match="No space left on device"):
        write_report({"seconds": {"record": 1.0}}, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
