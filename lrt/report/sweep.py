"""The report of a sweep: which jobs ran, what came out, and where the best layers lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrt.report.heatmap import grid_figure, layer_grid, metric_name, size_grid
from lrt.report.numerals import duration, share
from lrt.report.palette import behaviour_name
from lrt.report.plain import plain, to_json
from lrt.report.svg import inline_svg
from lrt.report.table import Cell, Table
from lrt.report.templating import render
from lrt.report.writing import write_files

Row = Mapping[str, Any]

SHOWN = ("mean_ratio", "fvu")


def write_sweep_report(rows: Sequence[Row], folder: Path, *, setting: str = "paths.report") -> Path:
    """Write `sweep.html`, `sweep.json` and `sweep.md` into `folder`; returns the page's path.

    rows     One job each: `job`, `pair`, `source_layer`, `target_layer`, `fvu`, `r2`,
             `excess_over_optimum`, `ratios` by behaviour, `mean_ratio`, `split` (of their items),
             `status` ("ok" or "failed"), `error`, `seconds`; optionally `source` and `target`, the
             models' names, which are otherwise read from the pair's.
    setting  Named in the ReportUnwritable that is raised where `folder` cannot be written to.
    """
    record = plain(list(rows))
    table = sweep_table(record)
    page = render(
        "sweep.html",
        headline=sweep_headline(record),
        rows=record,
        failures=[r for r in record if r.get("status") == "failed"],
        behaviours=_behaviours(record),
        layers=_layer_maps(record),
        sizes=_size_maps(record),
    )
    failures = "".join(
        f"\nJob {r.get('job')} failed: `{' '.join(str(r.get('error')).split())}`\n"
        for r in record
        if r.get("status") == "failed"
    )
    markdown = f"# Sweep\n\n{sweep_headline(record)}\n\n{table.markdown()}{failures}"
    write_files(
        folder,
        {
            "sweep.json": to_json(record),
            "sweep.md": markdown.encode(),
            "sweep.html": page.encode(),
        },
        setting,
    )
    return folder / "sweep.html"


def sweep_headline(rows: Sequence[Row]) -> str:
    """How many jobs finished, and the best of them."""
    done = [r for r in rows if r.get("status") != "failed"]
    text = f"{len(done)} of {len(rows)} jobs finished."
    scored = [r for r in done if r.get("mean_ratio") is not None]
    if scored:
        best = max(scored, key=lambda r: float(r["mean_ratio"]))
        splits = " and ".join(sorted({str(r.get("split", "test")) for r in scored}))
        text += (
            f" The best mean ratio of {len(scored)}, on {splits} items, is {share(best['mean_ratio'])}: "
            f"{best.get('pair')}, block {best.get('source_layer')} to {best.get('target_layer')}."
        )
    return text


def sweep_table(rows: Sequence[Row]) -> Table:
    """One row a job, failed ones among them."""
    behaviours = _behaviours(rows)
    body: list[tuple[Cell, ...]] = [
        (
            r.get("job"),
            str(r.get("pair")),
            r.get("source_layer"),
            r.get("target_layer"),
            r.get("fvu"),
            r.get("r2"),
            r.get("excess_over_optimum"),
            r.get("mean_ratio"),
            *((r.get("ratios") or {}).get(name) for name in behaviours),
            str(r.get("status")),
            duration(r.get("seconds")),
        )
        for r in rows
    ]
    return Table(
        "Jobs",
        (
            "job",
            "pair",
            "source block",
            "target block",
            "FVU",
            "R²",
            "excess",
            "mean ratio",
            *(behaviour_name(name) for name in behaviours),
            "status",
            "time",
        ),
        tuple(body),
    )


def _behaviours(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for r in rows for name in r.get("ratios") or {}))


def _layer_maps(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Heatmaps of every pair that was run on more than one pair of layers."""
    found = []
    for number, pair in enumerate(dict.fromkeys(r.get("pair") for r in rows)):
        mine = [r for r in rows if r.get("pair") == pair]
        if len({(r.get("source_layer"), r.get("target_layer")) for r in mine}) > 1:
            drawings = [
                {
                    "title": metric_name(metric),
                    "svg": inline_svg(
                        grid_figure(layer_grid(mine, metric), metric, bare=True),
                        f"layers{number}-{metric}",
                    ),
                }
                for metric in SHOWN
            ]
            found.append({"pair": pair, "drawings": drawings})
    return found


def _size_maps(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Heatmaps over the pairs of sizes, where there is more than one pair."""
    if len({r.get("pair") for r in rows}) < 2:
        return []
    return [
        {
            "title": metric_name(metric),
            "svg": inline_svg(grid_figure(size_grid(rows, metric), metric, bare=True), f"sizes-{metric}"),
        }
        for metric in SHOWN
    ]
