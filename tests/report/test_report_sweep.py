from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lrt.report import sweep_table, write_sweep_report


def test_sweep_report(sweep_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = write_sweep_report(sweep_rows, tmp_path)
    html = path.read_text()
    assert path == tmp_path / "sweep.html"
    assert "10 of 11 jobs finished." in html
    assert "Layers: small-to-large" in html
    assert "Layers: tiny-to-small" not in html  # one pair of layers is no heatmap
    assert "Pairs of sizes" in html
    assert html.count("<svg") == 4
    # the failed job's own words, escaped
    assert "layers.target=9 is not a block of &lt;storybook-large&gt;" in html
    assert "<storybook-large>" not in html
    assert json.loads((tmp_path / "sweep.json").read_text()) == sweep_rows
    text = (tmp_path / "sweep.md").read_text()
    assert "Job 4 failed: `ValueError: layers.target=9" in text


def test_sweep_table_equals_its_rows(sweep_rows: list[dict[str, Any]]) -> None:
    table = sweep_table(sweep_rows)
    for name, key in (("mean ratio", "mean_ratio"), ("FVU", "fvu"), ("status", "status")):
        index = table.columns.index(name)
        assert [row[index] for row in table.rows] == [r[key] for r in sweep_rows]
    french = table.columns.index("french")
    assert [row[french] for row in table.rows] == [r["ratios"].get("french") for r in sweep_rows]


def test_a_sweep_in_which_all_failed(sweep_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [{**sweep_rows[4], "job": i, "source_layer": i, "error": None} for i in range(3)]
    html = write_sweep_report(rows, tmp_path).read_text()
    assert "0 of 3 jobs finished." in html
    assert html.count(">failed</text>") == 6
    assert "no message" in html


def test_the_best_job_is_named(sweep_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    sweep_rows[10]["mean_ratio"] = 0.99
    for row in sweep_rows:
        row["split"] = "development"
    scored = sum(row.get("mean_ratio") is not None for row in sweep_rows)
    html = write_sweep_report(sweep_rows, tmp_path).read_text()
    said = f"The best mean ratio of {scored}, on development items, is 99%: tiny-to-large, block 2 to 3."
    assert said in html
