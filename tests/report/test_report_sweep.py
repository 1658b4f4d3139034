from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lrt.report import write_sweep_report
from lrt.report.sweep import sweep_headline, sweep_table


def test_sweep_report(sweep_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    sweep_rows[4]["error"] += " `<img src=x>` | *"
    path = write_sweep_report(sweep_rows, tmp_path)
    html = path.read_text()
    assert path == tmp_path / "sweep.html"
    assert "10 of 11 jobs" in html
    assert "Layers: small-to-large" in html
    assert "Layers: tiny-to-small" not in html  # one pair of layers is no heatmap
    assert html.count("<svg") == 4
    # the error is escaped in page and Markdown
    assert "layers.target=9 is not a block of &lt;storybook-large&gt;" in html
    markdown = (tmp_path / "sweep.md").read_text()
    assert "layers.target=9 is not a block of &lt;storybook-large&gt; \\`&lt;img src=x&gt;\\`" in markdown
    for text in (html, markdown):
        assert "<storybook-large>" not in text
        assert "<img" not in text
    assert json.loads((tmp_path / "sweep.json").read_text()) == sweep_rows


def test_sweep_table_equals_its_rows(sweep_rows: list[dict[str, Any]]) -> None:
    table = sweep_table(sweep_rows)
    for name, key in (("mean transfer ratio", "mean_ratio"), ("FVU", "fvu"), ("status", "status")):
        index = table.columns.index(name)
        assert [row[index] for row in table.rows] == [r[key] for r in sweep_rows]
    french = table.columns.index("ratio, french")
    assert [row[french] for row in table.rows] == [r["ratios"].get("french") for r in sweep_rows]


def test_a_sweep_in_which_all_failed(sweep_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [{**sweep_rows[4], "job": i, "source_layer": i, "error": None} for i in range(3)]
    html = write_sweep_report(rows, tmp_path).read_text()
    assert "0 of 3 jobs" in html
    assert html.count(">failed</text>") == 6


def test_the_headline_names_the_best_job_and_the_split(sweep_rows: list[dict[str, Any]]) -> None:
    sweep_rows[10]["mean_ratio"] = 0.99
    for row in sweep_rows:
        row["split"] = "development"
    headline = sweep_headline(sweep_rows)
    for part in ("development items", "99%", "tiny-to-large", "layer 2 to 3"):
        assert part in headline
