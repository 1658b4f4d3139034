"""Heatmaps of a sweep: layers of one pair, or the sizes of many."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lrt.report.figures import figure_style
from lrt.report.numerals import figure, share
from lrt.report.palette import DARK, LIGHT, behaviour_name

Row = Mapping[str, Any]

METRICS = {
    "mean_ratio": "mean ratio over behaviours",
    "fvu": "FVU of the map",
    "r2": "R² of the map",
    "excess_over_optimum": "excess over the ridge optimum",
}
LOWER_IS_BETTER = ("fvu", "excess_over_optimum")
IN_PERCENT = ("mean_ratio", "excess_over_optimum")


@dataclass(frozen=True)
class Grid:
    """Values by (row label, column label); a cell of `failed` alone was run without a result."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_title: str
    column_title: str
    values: Mapping[tuple[str, str], float]
    failed: frozenset[tuple[str, str]]


def metric_value(row: Row, metric: str) -> float | None:
    """A row's figure: one of its own, or the ratio of the behaviour of that name."""
    value = row[metric] if metric in row else (row.get("ratios") or {}).get(metric)
    return None if value is None else float(value)


def better(metric: str, values: Sequence[float]) -> float:
    """The best of some values of a metric."""
    return min(values) if metric in LOWER_IS_BETTER else max(values)


def models_of(row: Row) -> tuple[str, str]:
    """Source and target of a row: its own keys, or the two halves of its pair's name."""
    if row.get("source") and row.get("target"):
        return str(row["source"]), str(row["target"])
    pair = str(row.get("pair") or "")
    halves = re.split(r"\s*(?:->|→|_to_|-to-|\sto\s)\s*", pair)
    if len(halves) != 2:
        halves = re.split(r"[-_]", pair)
    return (halves[0], halves[1]) if len(halves) == 2 else (pair, "")


def layer_grid(rows: Sequence[Row], metric: str) -> Grid:
    """Source layers down, target layers across, for the rows of one pair."""
    return _grid(
        [(str(r.get("source_layer")), str(r.get("target_layer")), r) for r in rows],
        metric,
        "source block",
        "target block",
        numeric=True,
    )


def size_grid(rows: Sequence[Row], metric: str) -> Grid:
    """Source models down, target models across; the best layers of each pair."""
    return _grid([(*models_of(r), r) for r in rows], metric, "source", "target", numeric=False)


def heatmap_figure(rows: Sequence[Row], metric: str, dark: bool = False, *, bare: bool = False) -> Figure:
    """A heatmap of a sweep's rows: over layers where they are of one pair, over sizes otherwise.

    Stronger colour is better, whichever way the metric runs. A failed job's cell says so; a cell without a
    job is empty. `bare` leaves the title to the page.
    """
    one = len({r.get("pair") for r in rows}) <= 1
    return grid_figure((layer_grid if one else size_grid)(rows, metric), metric, dark, bare=bare)


def grid_figure(grid: Grid, metric: str, dark: bool = False, *, bare: bool = False) -> Figure:
    """The drawing of one grid."""
    palette = DARK if dark else LIGHT
    style = {**figure_style(palette), "axes.grid": False, "axes.spines.left": False}
    wide, high = max(len(grid.columns), 1), max(len(grid.rows), 1)
    with matplotlib.rc_context({**style, "axes.spines.bottom": False}):
        drawing = Figure(
            figsize=(max(3.0, 0.9 + 0.72 * wide), max(1.5, 0.8 + 0.5 * high)), layout="constrained"
        )
        axes = drawing.subplots()
        low = min(grid.values.values(), default=0.0)
        span = max(grid.values.values(), default=0.0) - low
        for i, row in enumerate(grid.rows):
            for j, column in enumerate(grid.columns):
                value = grid.values.get((row, column))
                if value is not None:
                    height = (value - low) / span if span > 0 else 0.5
                    if metric in LOWER_IS_BETTER:
                        height = 1 - height
                    text = share(value) if metric in IN_PERCENT else figure(value)
                    # opacity, not a colour map: the page's surface shines through, light or dark
                    face, alpha, ink = palette.heat, 0.06 + 0.6 * height, palette.ink
                elif (row, column) in grid.failed:
                    face, alpha, ink, text = palette.failed, 0.12, palette.failed, "failed"
                else:
                    continue
                axes.add_patch(
                    Rectangle((j - 0.47, i - 0.46), 0.94, 0.92, facecolor=face, alpha=alpha, linewidth=0)
                )
                axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=8.5)
        axes.set_xlim(-0.5, wide - 0.5)
        axes.set_ylim(high - 0.5, -0.5)
        axes.set_xticks(range(len(grid.columns)), grid.columns)
        axes.set_yticks(range(len(grid.rows)), grid.rows)
        axes.set_xlabel(grid.column_title)
        axes.set_ylabel(grid.row_title)
        if not bare:
            axes.set_title(metric_name(metric), loc="left")
    return drawing


def metric_name(metric: str) -> str:
    """A metric as a reader meets it."""
    return METRICS.get(metric, f"ratio, {behaviour_name(metric)}")


def _grid(
    cells: Sequence[tuple[str, str, Row]],
    metric: str,
    row_title: str,
    column_title: str,
    *,
    numeric: bool,
) -> Grid:
    values: dict[tuple[str, str], list[float]] = {}
    for row, column, record in cells:
        value = metric_value(record, metric)
        if record.get("status") != "failed" and value is not None:
            values.setdefault((row, column), []).append(value)
    best = {cell: better(metric, found) for cell, found in values.items()}
    places = {(row, column) for row, column, _ in cells}
    failed = {(row, column) for row, column, r in cells if r.get("status") == "failed"}

    def ordered(labels: list[str]) -> tuple[str, ...]:
        seen = list(dict.fromkeys(labels))
        if numeric:
            # a layer that never resolved to a block comes after the blocks
            seen.sort(key=lambda label: (not label.isdigit(), label.zfill(8)))
        return tuple(seen)

    return Grid(
        ordered([row for row, _, _ in cells]),
        ordered([column for _, column, _ in cells]),
        row_title,
        column_title,
        best,
        frozenset((places & failed) - set(best)),
    )
