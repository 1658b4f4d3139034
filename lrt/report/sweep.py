"""The report of a sweep: its jobs, their transfer ratios, and heatmaps over layers and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrt.report.heatmap import IN_PERCENT, LOWER_IS_BETTER, Grid, grid_figure, layer_grid, size_grid
from lrt.report.numerals import duration, share
from lrt.report.palette import behaviour_name
from lrt.report.plain import plain, to_json
from lrt.report.svg import inline_svg
from lrt.report.table import Cell, Table, escape_markdown
from lrt.report.templating import render
from lrt.report.writing import write_files

Row = Mapping[str, Any]

HEATMAPS = {"mean_ratio": "mean transfer ratio over behaviours", "fvu": "FVU of the map"}


def write_sweep_report(rows: Sequence[Row], folder: Path, *, setting: str = "paths.report") -> Path:
    """Write `sweep.html`, `sweep.json` and `sweep.md` into `folder`; returns the page's path.

    rows     One per job: `job`, `pair`, `source_layer`, `target_layer`, `fvu`, `r2`,
             `excess_over_optimum`, `ratios` by behaviour, `mean_ratio`, `split` (of their items),
             `status` ("ok" or "failed"), `error`, `seconds`; optionally `source` and `target`, the
             models' names (by default taken from the pair's name).
    setting  Named in the ReportUnwritable that is raised if `folder` cannot be written to.
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
        f"\nJob {escape_markdown(str(r.get('job')))} failed: {escape_markdown(str(r.get('error')))}\n"
        for r in record
        if r.get("status") == "failed"
    )
    markdown = f"# Sweep\n\n{escape_markdown(sweep_headline(record))}\n\n{table.markdown()}{failures}"
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
    """The number of finished jobs, and the best mean transfer ratio."""
    done = [r for r in rows if r.get("status") != "failed"]
    text = f"{len(done)} of {len(rows)} jobs finished."
    scored = [r for r in done if r.get("mean_ratio") is not None]
    if scored:
        best = max(scored, key=lambda r: float(r["mean_ratio"]))
        splits = " and ".join(sorted({str(r.get("split", "test")) for r in scored}))
        text += (
            f" The best mean transfer ratio of {len(scored)}, on {splits} items, is "
            f"{share(best['mean_ratio'])}: {best.get('pair')}, "
            f"layer {best.get('source_layer')} to {best.get('target_layer')}."
        )
    return text


def sweep_table(rows: Sequence[Row]) -> Table:
    """One row per job, failed ones included."""
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
            "source layer",
            "target layer",
            "FVU",
            "R²",
            "excess",
            "mean transfer ratio",
            *(f"ratio, {behaviour_name(name)}" for name in behaviours),
            "status",
            "time",
        ),
        tuple(body),
        ("job", "mean transfer ratio", "source layer", "target layer", "status", "pair", "FVU"),
    )


def _behaviours(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for r in rows for name in r.get("ratios") or {}))


def _layer_maps(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Heatmaps of every pair that was run on more than one pair of layers."""
    maps = []
    for number, pair in enumerate(dict.fromkeys(r.get("pair") for r in rows)):
        jobs = [r for r in rows if r.get("pair") == pair]
        if len({(r.get("source_layer"), r.get("target_layer")) for r in jobs}) > 1:
            drawings = [_drawing(layer_grid(jobs, metric), metric, f"layers{number}") for metric in HEATMAPS]
            maps.append({"pair": pair, "drawings": drawings})
    return maps


def _size_maps(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Heatmaps over the models, if there is more than one pair."""
    if len({r.get("pair") for r in rows}) < 2:
        return []
    return [_drawing(size_grid(rows, metric), metric, "sizes") for metric in HEATMAPS]


def _drawing(grid: Grid, metric: str, name: str) -> dict[str, str]:
    drawing = grid_figure(grid, lower_is_better=metric in LOWER_IS_BETTER, in_percent=metric in IN_PERCENT)
    return {"title": HEATMAPS[metric], "svg": inline_svg(drawing, f"{name}-{metric}")}
