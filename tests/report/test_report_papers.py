import json
from typing import Any

import pytest

from lrt.errors import InvalidValue
from lrt.report.papers import SETTINGS, check_file, compact, papers_page
from lrt.report.plain import to_json


@pytest.fixture
def record(results: dict[str, Any]) -> dict[str, Any]:
    found = compact(results, "paper_chat", False)
    for side in ("source", "target"):
        found["pair"][side] |= {"path": f"org/{side}", "revision": "abc123", "dtype": "bfloat16"}
    return found


def test_a_file_has_every_headline_figure_with_intervals_and_nulls(
    record: dict[str, Any], results: dict[str, Any]
) -> None:
    assert json.loads(to_json(record)) == record
    assert [each["name"] for each in record["behaviours"]] == [each["name"] for each in results["behaviours"]]
    for ours, whole in zip(record["behaviours"], results["behaviours"], strict=True):
        for name in ("unsteered", "native", "transferred", "ratio", "ratio_ci", "nulls", "null_details"):
            assert ours[name] == whole[name]
    assert record["provenance"]["machine"]


def test_a_file_has_no_text_that_a_model_wrote(results: dict[str, Any]) -> None:
    results["behaviours"][0]["answers"] = {"native": ["A SECRET TEXT"]}
    results["behaviours"][0]["next_steps"] = "A SECRET TEXT"
    results["examples"] = ["A SECRET TEXT"]
    assert b"SECRET" not in to_json(compact(results, "paper_chat", False))


def test_the_page_shows_a_file_in_its_section(record: dict[str, Any]) -> None:
    page = papers_page({"paper_chat-h100": record})
    sections = page.split("\n## ")[1:]
    assert len(sections) == len(SETTINGS)
    (own,) = (section for section in sections if "### paper" in section)
    assert own.startswith(SETTINGS["paper_chat"].title.replace("->", "→"))
    assert "org/source at abc123, bfloat16" in own
    assert "Nulls, as shares of the native change" in own
    assert sum("No results yet." in section for section in sections) == len(SETTINGS) - 1
    assert papers_page({}).count("No results yet.") == len(SETTINGS)


def test_text_of_a_file_is_escaped(record: dict[str, Any]) -> None:
    record["pair"]["source"]["path"] = "<script>alert(1)</script>"
    record["behaviours"][0]["note"] = "![x](http://host)"
    page = papers_page({"[a](b)": record})
    assert "<script" not in page
    assert "[a](b)" not in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dry_run": True}, "dry run"),
        ({"dry_run": None}, "dry run"),
        ({"setting": "mine"}, "setting 'mine'; known: paper_base"),
        ({"format": 0}, "no results file of this version"),
    ],
)
def test_another_file_is_refused(record: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        papers_page({"sent": record | change})


@pytest.mark.parametrize("data", [[], None, {}, {"behaviours": []}])
def test_what_is_no_results_file_is_refused(data: Any) -> None:
    with pytest.raises(InvalidValue, match=r"sent\.json is no results file"):
        check_file(data, "sent.json")
