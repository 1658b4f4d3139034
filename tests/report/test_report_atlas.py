import json
from pathlib import Path
from typing import Any

import pytest

from lrt.report.analysis import pairs_table
from lrt.report.atlas import atlas_headline, lost_table, write_atlas_report


def cell(source: int, target: int, **figures: Any) -> dict[str, Any]:
    plain = {"fvu": 0.5, "weight": 1.0, "cka": 0.6, "rank": 7, "error_along": {}, "cosine": {}}
    return {"source_layer": source, "target_layer": target, **plain, **figures}


@pytest.fixture
def results() -> dict[str, Any]:
    """The early pair predicts best, and the later one keeps the vectors."""
    model = {"depth": 6, "width": 8, "parameters": 1_500_000}
    cells = [
        cell(
            0, 1, fvu=0.1, error_along={"french": 0.9, "<dogs>": 0.8}, cosine={"french": 0.1, "<dogs>": 0.2}
        ),
        cell(0, 4, error_along={"french": 0.7, "<dogs>": 0.1}, cosine={"french": 0.3, "<dogs>": 0.95}),
        cell(3, 1, error_along={"french": 0.8, "<dogs>": 0.7}, cosine={"french": 0.2, "<dogs>": 0.4}),
        cell(
            3, 4, fvu=0.4, error_along={"french": 0.2, "<dogs>": 0.3}, cosine={"french": 0.97, "<dogs>": 0.8}
        ),
    ]
    return {
        "pair": {
            "name": "a pair",
            "source": {"name": "little", **model},
            "target": {"name": "<big>", **model},
        },
        "grid": {"source": (0, 3), "target": (1, 4)},
        "pool": 16,
        "rows": {"train": 12_000, "validation": 900, "test": 800},
        "atlas": cells,
        "provenance": {
            "date": "today",
            "commit": None,
            "versions": {"torch": "2"},
            "fingerprints": {"atlas": "abc"},
            "config": "span: 16",
        },
    }


def test_page_and_record(results: dict[str, Any], tmp_path: Path) -> None:
    page = write_atlas_report(results, tmp_path)
    text = page.read_text()
    assert page == tmp_path / "atlas.html"
    assert text.count("<svg") == 4
    assert "source little (1.5M), blocks 0, 3 of 6; target &lt;big&gt; (1.5M), blocks 1, 4 of 6" in text
    assert "<big>" not in text
    assert "<dogs>" not in text
    assert "Rows are means of 16 neighbouring tokens: 12,000 for train, 900 for validation" in text
    assert "fingerprint of atlas" in text
    assert ">commit<" not in text  # there is none
    assert "<script" not in text
    record = json.loads((tmp_path / "atlas.json").read_text())
    assert record["atlas"] == results["atlas"]
    assert record["grid"] == {"source": [0, 3], "target": [1, 4]}


def test_the_best_pair_is_by_the_vectors_and_not_by_fvu(results: dict[str, Any]) -> None:
    said = "4 pairs of blocks. The least error along the vectors, in the median, is 0.250: block 3 to 4."
    assert atlas_headline(results) == said
    table = pairs_table(results, 3)
    assert [row[:2] for row in table.rows] == [(3, 4), (0, 4), (3, 1)]
    assert [row[2] for row in table.rows] == pytest.approx([0.25, 0.4, 0.75])
    assert [row[3] for row in table.rows] == [0.4, 0.5, 0.5]


def test_without_vectors_it_is_by_fvu(results: dict[str, Any], tmp_path: Path) -> None:
    for each in results["atlas"]:
        each |= {"error_along": {}, "cosine": {}}
    assert atlas_headline(results) == "4 pairs of blocks. The least FVU is 0.100, block 0 to 1."
    assert [row[:3] for row in pairs_table(results, 2).rows] == [(0, 1, None), (3, 4, None)]
    text = write_atlas_report(results, tmp_path).read_text()
    assert text.count("<svg") == 3
    assert "Best pair of each vector" not in text
    assert "4 of 4, least FVU first" in text


def test_tokens_that_left_are_told_where_there_are_some(results: dict[str, Any], tmp_path: Path) -> None:
    assert "recording.non_finite" not in write_atlas_report(results, tmp_path).read_text()
    results["non_finite"] = {"train": {"source.3": 1234, "target.0": 2}, "validation": {}, "test": {}}
    assert lost_table(results).rows == (("source block 3", "train", 1234), ("target block 0", "train", 2))
    text = write_atlas_report(results, tmp_path).read_text()
    assert "Left out as infinite or undefined" in text
    assert "1,234" in text
    assert json.loads((tmp_path / "atlas.json").read_text())["non_finite"] == results["non_finite"]


@pytest.mark.parametrize(("blocks", "one_column"), [(12, False), (13, True)])
def test_large_grids_have_the_page_s_width(
    results: dict[str, Any], tmp_path: Path, blocks: int, one_column: bool
) -> None:
    results["grid"]["target"] = tuple(range(blocks))
    results["atlas"] = [cell(0, t) for t in range(blocks)]
    text = write_atlas_report(results, tmp_path).read_text()
    assert ('minmax(0,1fr)"' in text) == one_column
