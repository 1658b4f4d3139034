"""The page of an atlas: heatmaps over all pairs of layers, and tables of the best pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrt.report.atlas_heatmap import atlas_heatmap
from lrt.report.contents import Results, provenance_facts
from lrt.report.layer_tables import (
    atlas_table,
    least_error_first,
    median_along,
    pairs_table,
)
from lrt.report.numerals import count, figure, format_layers
from lrt.report.plain import plain, to_json
from lrt.report.table import Cell, Table
from lrt.report.templating import render
from lrt.report.writing import write_files

SHOWN = 20  # pairs in the page's table


def write_atlas_report(results: Results, folder: Path, *, setting: str = "paths.report") -> Path:
    """Write `atlas.html` and `atlas.json` into `folder`; returns the page's path.

    results  `atlas` (a cell for every pair), `pair` (name, source, target), `pool`, `rows` by split,
             `grid` and `provenance`; optionally `non_finite` by split, the counts of excluded tokens.
    setting  Named in the ReportUnwritable that is raised if `folder` cannot be written to.

    The page is one file without requests.
    """
    record: dict[str, Any] = plain(results)
    cells = record["atlas"]
    page = render(
        "atlas.html",
        title=f"{record['pair']['source']['name']} to {record['pair']['target']['name']}",
        headline=atlas_headline(record),
        sides=[_side(record, side) for side in ("source", "target")],
        rows=", ".join(f"{n:,} for {split}" for split, n in record["rows"].items()),
        pool=record["pool"],
        heatmap=atlas_heatmap(record),
        vectors=atlas_table(record),
        pairs=pairs_table(record, SHOWN),
        excluded=non_finite_table(record),
        all_pairs=len(cells),
        facts=provenance_facts(record["provenance"]),
        config=record["provenance"].get("config"),
    )
    write_files(folder, {"atlas.json": to_json(record), "atlas.html": page.encode()}, setting)
    return folder / "atlas.html"


def atlas_headline(results: Results) -> str:
    """The number of pairs, and the one with the least error along the vectors."""
    cells = results["atlas"]
    best = min(cells, key=least_error_first)
    along = median_along(best)
    what, value = ("FVU", best["fvu"]) if along is None else ("median error along the vectors", along)
    return (
        f"{len(cells)} pairs of layers. The least {what} is {figure(value)}: "
        f"layer {best['source_layer']} to {best['target_layer']}."
    )


def non_finite_table(results: Results) -> Table:
    """Counts of tokens whose state at a layer is infinite or undefined: no row of any pair has them."""
    rows: list[tuple[Cell, ...]] = [
        (name.replace(".", " layer "), split, tokens)
        for split, counts in (results.get("non_finite") or {}).items()
        for name, tokens in counts.items()
    ]
    return Table("Excluded as infinite or undefined", ("where", "split", "tokens"), tuple(rows))


def _side(results: Results, side: str) -> str:
    model = results["pair"][side]
    return (
        f"{side} {model['name']} ({count(model['parameters'])}), {format_layers(results['grid'][side])} "
        f"of {model['depth']}"
    )
