from __future__ import annotations

from typing import Any

import pytest

from lrt.report import summary_tables
from lrt.report.next_steps import NO_RULE, next_steps
from lrt.report.page import markdown, page

TRIAL = {
    "layer": 3,
    "strength": 0.5,
    "change": 0.1,
    "low": -0.1,
    "high": 0.3,
    "damage": 0.02,
    "damaged": False,
}
PROMPTS = {
    "position": "last token",
    "positives": 12,
    "negatives": 10,
    "positive_tokens": [["<|im_end|>", 12]],
    "negative_tokens": [["\n", 10]],
    "signal_to_noise": {"3": None, "5": 1.25},
}
NATIVE = {
    "vector": "native",
    "damage_limit": 0.1,
    "tried": [TRIAL, TRIAL | {"strength": 1.0, "damage": 0.4, "damaged": True}],
    "suggestions": [{"rule": "few prompts", "because": "1.2 | <errors>", "action": "more [prompts]"}],
    "split": "development",
    "items": 16,
    "prompts": PROMPTS,
    "layers_not_tried": [0, 1],
}
TRANSFERRED = NATIVE | {
    "vector": "transferred",
    "suggestions": [],
    "layers_not_tried": [],
    "map": {"name": "stories", "parts": ["stories"], "fvu": 0.4, "error_along": None},
    "source": {"layer": 1, "steers": False},
}


@pytest.fixture
def unsteered(results: dict[str, Any]) -> dict[str, Any]:
    french, *_, flat = results["behaviours"]
    forecast = {"signal_to_noise": 2.5, "residual_on_prompts": 0.7, "warning": "noisy"}
    behaviours = [
        flat | {"next_steps": NATIVE, "curves": {}},
        french | {"next_steps": TRANSFERRED, "forecast": forecast, "curves": {}, "examples": []},
        french | {"name": "steered", "next_steps": None, "curves": {}},
    ]
    return {**results, "behaviours": behaviours, "training": {}, "maps": []}


def test_only_behaviours_that_are_not_steered_have_a_section(unsteered: dict[str, Any]) -> None:
    native, transferred = next_steps(unsteered)
    assert (native.name, transferred.name) == ("night_owl", "french")
    assert [row[:3] for row in native.tried.rows] == [(3, 0.5, 0.1), (3, 1.0, 0.1)]
    assert [bool(row[-1]) for row in native.tried.rows] == [False, True]
    assert next_steps({}) == []


def test_facts_name_prompts_position_tokens_layers_map_source_and_forecast(unsteered: dict[str, Any]) -> None:
    native, transferred = (" ".join(section.facts) for section in next_steps(unsteered))
    for text in ("12 positive and 10 negative", "last token", "<|im_end|>", r"\n", "1.25", "10%", "0, 1"):
        assert text in native
    assert "Map:" not in native
    for text in ("stories", "does not steer the source, at layer 1", "2.50", "70%", "it warned"):
        assert text in transferred


def test_a_vector_without_a_suggestion_says_so(unsteered: dict[str, Any]) -> None:
    _, transferred = next_steps(unsteered)
    assert transferred.suggestions.rows == ((NO_RULE, ""),)
    assert transferred.brief().rows[-1] == ("try", NO_RULE)


def test_it_is_on_the_page_in_markdown_and_in_the_terminal(unsteered: dict[str, Any]) -> None:
    html, text = page(unsteered), markdown(unsteered)
    assert html.count("<summary>What to try next") == 2
    assert "1.2 | &lt;errors&gt;" in html
    assert r"more \[prompts\] | 1.2 \| &lt;errors&gt;" in text
    titles = [table.title for table in summary_tables(unsteered)]
    assert sum("what to try next" in title for title in titles) == 2
    assert sum("does not steer" in title for title in titles) == 2
