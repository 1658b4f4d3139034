"""The page of pairs of two families: its tables follow from the committed data."""

import json
from pathlib import Path

from studies.families import curves, dose_table, effect_table

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PAIRS = ("smollm2-135m-qwen2.5-coder-1.5b-instruct", "qwen2.5-coder-0.5b-smollm2-135m-instruct")


def test_the_page_has_the_tables_of_the_data() -> None:
    runs = [json.loads((RESULTS / pair / "results.json").read_text()) for pair in PAIRS]
    page = (RESULTS / "families.md").read_text()
    for table in (effect_table(runs), dose_table(runs)):
        assert table.markdown() in page
    drawn = curves(runs, ["french", "refusal_induced"])
    panels = [axes for axes in drawn.axes if axes.lines]
    assert len(panels) == 3, "refusal was not measured on the first pair"
