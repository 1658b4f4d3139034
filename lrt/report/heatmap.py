"""Heatmaps over layers or models: the grid of values and its drawing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lrt.report.figures import FIGURE_STYLE
from lrt.report.numerals import figure, share
from lrt.report.palette import LIGHT

Row = Mapping[str, Any]

LOWER_IS_BETTER = ("fvu",)
IN_PERCENT = ("mean_ratio",)


@dataclass(frozen=True)
class Grid:
    """Values by (row label, column label); cells of `failed` have no value because their job failed."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_title: str
    column_title: str
    values: Mapping[tuple[str, str], float]
    failed: frozenset[tuple[str, str]]


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
        "source layer",
        "target layer",
        numeric=True,
    )


def size_grid(rows: Sequence[Row], metric: str) -> Grid:
    """Source models down, target models across; of each pair its best layers."""
    return _grid([(*models_of(r), r) for r in rows], metric, "source model", "target model", numeric=False)


def grid_figure(
    grid: Grid, *, lower_is_better: bool, in_percent: bool = False, title: str | None = None
) -> Figure:
    """Heatmap of one grid. Stronger colour is better; a failed job's cell is marked as failed."""
    style = {**FIGURE_STYLE, "axes.grid": False, "axes.spines.left": False}
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
                    if lower_is_better:
                        height = 1 - height
                    text = share(value) if in_percent else figure(value)
                    # opacity, not a colour map: the page's surface shines through, light or dark
                    face, alpha, ink = LIGHT.heat, 0.06 + 0.6 * height, LIGHT.ink
                elif (row, column) in grid.failed:
                    face, alpha, ink, text = LIGHT.failed, 0.12, LIGHT.failed, "failed"
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
        if title:
            axes.set_title(title, loc="left")
    return drawing


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
        value = record.get(metric)
        if record.get("status") != "failed" and value is not None:
            values.setdefault((row, column), []).append(float(value))
    choose = min if metric in LOWER_IS_BETTER else max
    best = {cell: choose(candidates) for cell, candidates in values.items()}
    places = {(row, column) for row, column, _ in cells}
    failed = {(row, column) for row, column, r in cells if r.get("status") == "failed"}

    def ordered(labels: list[str]) -> tuple[str, ...]:
        seen = list(dict.fromkeys(labels))
        if numeric:
            # layers of failed jobs may be no numbers: they come last
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
