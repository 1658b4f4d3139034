from typing import Any

from lrt.report.atlas_heatmap import atlas_heatmap


def cell(source: int, target: int, **values: Any) -> dict[str, Any]:
    whole = {"fvu": 0.5, "cka": 0.5, "rank": 7, "error_along": {}, "cosine": {}}
    return {"source_layer": source, "target_layer": target, **whole, **values}


def test_every_cell_has_its_numbers_and_the_best_is_highest() -> None:
    cells = [
        cell(0, 2, fvu=0.2, cka=0.9, error_along={"sad_stories": 0.7}, cosine={"sad_stories": 0.1}),
        cell(0, 5, fvu=0.4, error_along={"sad_stories": 0.1}, cosine={"sad_stories": 0.8}),
        cell(3, 5, fvu=0.3, cka=0.6, error_along={"sad_stories": 0.4}),
    ]
    heatmap = atlas_heatmap({"atlas": cells})
    assert heatmap is not None
    assert heatmap["targets"] == [2, 5]
    assert heatmap["rows"] == [(0, [0, 1]), (3, [None, 2])]
    metrics = {metric["name"]: metric for metric in heatmap["data"]["metrics"]}
    assert next(iter(metrics)) == "along"
    assert metrics["along"]["heights"] == [0, 1, 0.5]
    assert metrics["fvu"]["heights"] == [1, 0, 0.5]
    assert metrics["cka"]["heights"] == [1, 0, 0.25]
    assert metrics["rank"]["heights"] == [0.5] * 3
    assert metrics["fvu"]["texts"] == ["0.200", "0.400", "0.300"]
    assert heatmap["data"]["cells"][1]["vectors"] == [["sad stories", "0.100", "0.800"]]
    assert heatmap["data"]["cells"][2]["vectors"] == [["sad stories", "0.400", "–"]]


def test_a_grid_without_vectors_begins_with_fvu_and_a_wide_one_has_no_texts() -> None:
    heatmap = atlas_heatmap({"atlas": [cell(0, target) for target in range(40)]})
    assert heatmap is not None
    assert heatmap["data"]["metrics"][0]["name"] == "fvu"
    assert not heatmap["with_text"]
    assert atlas_heatmap({}) is None
    assert atlas_heatmap({"atlas": None}) is None
