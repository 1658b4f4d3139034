import json
from pathlib import Path
from typing import Any

import pytest

from lrt.report.atlas import atlas_headline, non_finite_table, write_atlas_report
from lrt.report.layer_tables import pairs_table


def cell(source: int, target: int, **figures: Any) -> dict[str, Any]:
    plain = {"fvu": 0.5, "weight": 1.0, "cka": 0.6, "rank": 7, "error_along": {}, "cosine": {}}
    return {"source_layer": source, "target_layer": target, **plain, **figures}


@pytest.fixture
def results() -> dict[str, Any]:
    """The early pair predicts best, the later one has the least error along the vectors."""
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
            "config": "pool: 16",
        },
    }


def test_page_and_record(results: dict[str, Any], tmp_path: Path) -> None:
    results["non_finite"] = {"train": {"source.3": 1234, "target.0": 2}, "validation": {}, "test": {}}
    page = write_atlas_report(results, tmp_path)
    text = page.read_text()
    assert page == tmp_path / "atlas.html"
    assert text.count("<td><button") == 4
    assert "source little (1.5M), layers 0, 3 of 6; target &lt;big&gt; (1.5M), layers 1, 4 of 6" in text
    assert "<big>" not in text
    assert "<dogs>" not in text
    assert "12,000 for train, 900 for validation" in text
    assert "fingerprint of atlas" in text
    assert ">commit<" not in text  # there is none
    assert "<script>alert" not in text
    assert non_finite_table(results).rows == (
        ("source layer 3", "train", 1234),
        ("target layer 0", "train", 2),
    )
    assert "1,234" in text
    record = json.loads((tmp_path / "atlas.json").read_text())
    assert record["atlas"] == results["atlas"]
    assert record["grid"] == {"source": [0, 3], "target": [1, 4]}
    assert record["non_finite"] == results["non_finite"]


def test_the_best_pair_is_by_the_vectors_and_not_by_fvu(results: dict[str, Any]) -> None:
    assert "0.250" in atlas_headline(results)
    assert "layer 3 to 4" in atlas_headline(results)
    table = pairs_table(results, 3)
    assert [row[:2] for row in table.rows] == [(3, 4), (0, 4), (3, 1)]
    assert [row[2] for row in table.rows] == pytest.approx([0.25, 0.4, 0.75])
    assert [row[3] for row in table.rows] == [0.4, 0.5, 0.5]


def test_without_vectors_it_is_by_fvu(results: dict[str, Any], tmp_path: Path) -> None:
    for each in results["atlas"]:
        each |= {"error_along": {}, "cosine": {}}
    assert "FVU is 0.100" in atlas_headline(results)
    assert "layer 0 to 1" in atlas_headline(results)
    assert [row[:3] for row in pairs_table(results, 2).rows] == [(0, 1, None), (3, 4, None)]
    text = write_atlas_report(results, tmp_path).read_text()
    assert 'id="vectors"' not in text
    assert 'id="excluded"' not in text
