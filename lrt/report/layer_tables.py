"""Tables and figures over pairs of layers, and over the rank of the map."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lrt.report.contents import Results
from lrt.report.figures import FIGURE_STYLE
from lrt.report.heatmap import Grid, grid_figure
from lrt.report.palette import LIGHT, behaviour_name
from lrt.report.table import Cell, Table

# metrics of a cell of the atlas
ATLAS = {
    "fvu": "FVU of the ridge map, test documents",
    "cka": "linear CKA, training documents",
    "rank": "rank that explains 95% of the map",
    "along": "median error along the vectors",
    "tokens": "FVU on single test tokens, massive activations excluded",
    "unfiltered": "FVU on all single test tokens, massive activations included",
}
HIGHER_IS_BETTER = ("cka",)
# the columns of the last two
ON_TOKENS = {"tokens": "FVU, single tokens", "unfiltered": "FVU, massive activations included"}


def atlas_figure(results: Results, metric: str, *, bare: bool = False) -> Figure:
    """Heatmap of a metric of `ATLAS` over all pairs of layers. Stronger colour is better."""
    cells = results.get("atlas") or []
    values = {}
    for cell in cells:
        value = atlas_value(cell, metric)
        if value is not None:
            values[str(cell["source_layer"]), str(cell["target_layer"])] = float(value)
    sources, targets = (
        tuple(dict.fromkeys(str(cell[f"{side}_layer"]) for cell in cells)) for side in ("source", "target")
    )
    grid = Grid(sources, targets, "source layer", "target layer", values, frozenset())
    return grid_figure(
        grid, lower_is_better=metric not in HIGHER_IS_BETTER, title=None if bare else ATLAS[metric]
    )


def atlas_metrics(results: Results) -> dict[str, str]:
    """The metrics of `ATLAS` that the cells have: without a store there are none on single tokens."""
    cells = results.get("atlas") or []
    return {m: title for m, title in ATLAS.items() if any(atlas_value(cell, m) is not None for cell in cells)}


def atlas_value(cell: Mapping[str, Any], metric: str) -> float | None:
    """One cell's value of a metric of `ATLAS`."""
    if metric == "along":
        return median_along(cell)
    value: float | None = cell.get(metric, (cell.get("fvu_of") or {}).get(metric))
    return value


def median_along(cell: Mapping[str, Any]) -> float | None:
    """Median of one cell's errors along the steering vectors; None without vectors."""
    errors = list((cell.get("error_along") or {}).values())
    return median(errors) if errors else None


def atlas_table(results: Results) -> Table:
    """For each steering vector, the pair of layers with the least error along it."""
    cells = results.get("atlas") or []
    names = sorted({name for cell in cells for name in cell.get("error_along") or {}})
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        best = min(cells, key=lambda cell: cell["error_along"].get(name, float("inf")))
        rows.append(
            (
                behaviour_name(name),
                best["source_layer"],
                best["target_layer"],
                best["error_along"][name],
                best["cosine"][name],
            )
        )
    return Table(
        "The pair of layers with the least error along each vector",
        ("vector", "source layer", "target layer", "error along it", "cosine, transferred with native"),
        tuple(rows),
    )


def pairs_table(results: Results, most: int | None = None) -> Table:
    """Pairs of layers, at most `most`, by their median error along the vectors (by FVU without vectors)."""
    cells = results.get("atlas") or []
    on_tokens = ON_TOKENS if any(cell.get("fvu_of") for cell in cells) else {}
    rows: list[tuple[Cell, ...]] = [
        (
            cell["source_layer"],
            cell["target_layer"],
            median_along(cell),
            cell["fvu"],
            cell["cka"],
            cell["rank"],
            *(cell["fvu_of"][name] for name in on_tokens),
        )
        for cell in sorted(cells, key=least_error_first)[:most]
    ]
    return Table(
        "The pairs of layers with the least median error along the vectors",
        ("source layer", "target layer", "error along", "FVU", "CKA", "rank at 95%", *on_tokens.values()),
        tuple(rows),
    )


def least_error_first(cell: Mapping[str, Any]) -> tuple[float, int, int]:
    """Sort key of an atlas's cells: median error along the vectors, or FVU without vectors."""
    along = median_along(cell)
    return cell["fvu"] if along is None else along, cell["source_layer"], cell["target_layer"]


def many_to_one_table(results: Results) -> Table:
    """FVU at every target layer from all source layers together and from each of them alone.

    With `many_to_many`, also the FVU of the one map from all source layers to all target layers.
    """
    targets = results.get("many_to_one") or []
    sources = list(targets[0]["fvu_single"]) if targets else []
    joint: Mapping[str, float] | None = (results.get("many_to_many") or {}).get("fvu_layer")
    rows: list[tuple[Cell, ...]] = [
        (
            f"layer {each['target_layer']}",
            *(each["fvu_single"][s] for s in sources),
            each["fvu_all"],
            *([joint.get(str(each["target_layer"]))] if joint else []),
            each["gain"],
            *(each["rise"][s] for s in sources),
            *(each["share"][s] for s in sources),
        )
        for each in targets
    ]
    joint_column = ("FVU, all layers to all",) if joint else ()
    return Table(
        "Many source layers to one target layer",
        (
            "target",
            *(f"FVU, layer {s} alone" for s in sources),
            "FVU, all layers",
            *joint_column,
            "gain over the best",
            *(f"rise without layer {s}" for s in sources),
            *(f"share of layer {s}" for s in sources),
        ),
        tuple(rows),
        ("target", "FVU, all layers", "gain over the best", *joint_column),
    )


def rank_figure(results: Results) -> Figure:
    """FVU on test documents against the rank of the map."""
    curve = results.get("rank_curve") or {}
    with matplotlib.rc_context(FIGURE_STYLE):
        drawing = Figure(figsize=(4.8, 2.9), layout="constrained")
        axes = drawing.subplots()
        for key, label, colour, dashes in (
            ("fvu", "best map of the rank", LIGHT.transferred, "-"),
            ("truncated_fvu", "ridge map, truncated", LIGHT.random, (0, (6, 2, 1, 2))),
        ):
            axes.plot(
                curve.get("ranks") or [],
                curve.get(key) or [],
                color=colour,
                linestyle=dashes,
                marker="o",
                markersize=3.2,
                label=label,
            )
        if curve.get("rank_95"):
            axes.axvline(curve["rank_95"], color=LIGHT.optimum, linestyle="--", linewidth=1.2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(curve.get("ranks") or [1], [str(rank) for rank in curve.get("ranks") or [1]])
        axes.set_xlabel("rank")
        axes.set_ylabel("FVU")
        axes.legend()
    return drawing


def rank_table(results: Results) -> Table:
    """FVU by rank: of the best map of that rank and of the truncated ridge map."""
    curve = results.get("rank_curve") or {}
    columns = (curve.get(key) or [] for key in ("ranks", "fvu", "truncated_fvu"))
    return Table(
        "FVU against rank",
        ("rank", "best map of the rank", "ridge map, truncated"),
        tuple(zip(*columns, strict=True)),
    )
