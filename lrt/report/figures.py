"""The figures of one run, in light colours (`svg.py` adapts them to the page). pyplot is never used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lrt.report.numerals import count, share
from lrt.report.palette import CURVES, LIGHT, behaviour_name

UNITS = {
    "residual_norm": "in median residual norms",
    "absolute": "norm of the added vector",
    "share": "ablated share of the component",
}


# matplotlib settings of every figure
FIGURE_STYLE: dict[str, Any] = {
    "figure.facecolor": LIGHT.surface,
    "savefig.facecolor": LIGHT.surface,
    "axes.facecolor": "none",
    "axes.edgecolor": LIGHT.rule,
    "axes.labelcolor": LIGHT.muted,
    "axes.titlecolor": LIGHT.ink,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT.rule,
    "grid.linewidth": 0.6,
    "xtick.color": LIGHT.rule,
    "ytick.color": LIGHT.rule,
    "xtick.labelcolor": LIGHT.muted,
    "ytick.labelcolor": LIGHT.muted,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": LIGHT.muted,
    "text.color": LIGHT.ink,
    "text.parse_math": False,  # names are not ours: a dollar sign is no formula
    "font.size": 8,
    "font.family": "DejaVu Sans",
}


def strength_figure(summary: Mapping[str, Any], *, bare: bool = False) -> Figure:
    """Mean score of one behaviour over strength with 95% bands; its damage in the strip below.

    summary  One of the results' `behaviours`.
    bare     Without title and legend, which the page writes itself.
    """
    curves, damage = summary.get("curves") or {}, summary.get("damage_curves") or {}
    damage = {
        name: damage[name]
        for name in ("native", "transferred", "random", "untrained_source")
        if damage.get(name)
    }
    with matplotlib.rc_context(FIGURE_STYLE):
        drawing = Figure(figsize=(4.2, 3.1 if damage else 2.6), layout="constrained")
        if damage:
            axes, strip = drawing.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        else:
            axes, strip = drawing.subplots(), None
        for name, (label, dashes) in CURVES.items():
            points = curves.get(name)
            if not points:
                continue
            colour = getattr(LIGHT, name)
            x = [p["strength"] for p in points]
            lead = name in ("native", "transferred")
            bounded = [p for p in points if p.get("low") is not None and p.get("high") is not None]
            if bounded:
                axes.fill_between(
                    [p["strength"] for p in bounded],
                    [p["low"] for p in bounded],
                    [p["high"] for p in bounded],
                    color=colour,
                    alpha=0.16 if lead else 0.08,
                    linewidth=0,
                )
            axes.plot(
                x,
                [_number(p["mean"]) for p in points],
                color=colour,
                linestyle=dashes,
                linewidth=1.9 if lead else 1.3,
                marker="o" if lead else None,
                markersize=3.2,
                label=label,
                zorder=3 if lead else 2,
            )
        if not curves:
            _no_data(axes, "no curve was measured")
        dose = summary.get("dose")
        if dose and summary.get("unsteered") is not None:
            half = summary["unsteered"] + summary.get("direction", 1) * dose["effect"]
            axes.axhline(half, color=LIGHT.muted, linewidth=0.7, linestyle=(0, (2, 3)), zorder=1)
        for panel in (axes, strip):
            if panel is not None and summary.get("strength") is not None:
                panel.axvline(summary["strength"], color=LIGHT.muted, linewidth=0.9, zorder=1)
        axes.set_ylabel("score")
        if strip is not None:
            for name, points in damage.items():
                drawn = [(p["strength"], _number(p["relative"])) for p in points]
                if all(x != 0 for x, _ in drawn):
                    # by definition: damage is the rise over the unsteered model
                    drawn = sorted([*drawn, (0.0, 0.0)])
                strip.plot(
                    [x for x, _ in drawn],
                    [y for _, y in drawn],
                    color=getattr(LIGHT, name),
                    linestyle=CURVES[name][1],
                    linewidth=1.3,
                )
            strip.set_ylabel("damage")
            strip.yaxis.set_major_formatter(FuncFormatter(lambda y, _: share(y)))
            strip.yaxis.set_major_locator(MaxNLocator(2))
        (strip or axes).set_xlabel(f"strength, {UNITS[summary.get('strength_unit', 'residual_norm')]}")
        if not bare:
            axes.set_title(behaviour_name(str(summary.get("name", ""))), loc="left")
            if curves:
                axes.legend(fontsize=7)
    return drawing


def loss_figure(training: Mapping[str, Any] | None, *, bare: bool = False) -> Figure:
    """FVU of the fit over steps, training and validation, with the line of the reference ridge."""
    training = training or {}
    with matplotlib.rc_context(FIGURE_STYLE):
        drawing = Figure(figsize=(4.8, 2.9), layout="constrained")
        axes = drawing.subplots()
        drawn = False
        for name, label, colour, width in (
            ("train", "training batches", LIGHT.train, 1.2),
            ("val", "validation", LIGHT.transferred, 1.9),
        ):
            points = training.get(name)
            if points:
                drawn = True
                axes.plot(
                    [p[0] for p in points],
                    [_number(p[1]) for p in points],
                    color=colour,
                    linewidth=width,
                    marker="o" if name == "val" and len(points) < 25 else None,
                    markersize=3.2,
                    label=label,
                )
        optimum = training.get("optimum")
        if optimum is not None:
            axes.axhline(optimum, color=LIGHT.optimum, linestyle="--", linewidth=1.2, label="reference ridge")
        if drawn:
            values = [p[1] for name in ("train", "val") for p in training.get(name) or [] if p[1]]
            if values and min(values) > 0 and max(values) > 10 * min(values):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
            axes.legend()
        else:
            _no_data(axes, "no training curve: the map was not trained by gradient")
        axes.set_xlabel("step")
        axes.set_ylabel("FVU")
        if not bare:
            axes.set_title("Loss of the map", loc="left")
    return drawing


def training_curve_figure(evaluation: Mapping[str, Any], *, bare: bool = False) -> Figure:
    """One behaviour's score under the transferred vector at steps of the map's training."""
    with matplotlib.rc_context(FIGURE_STYLE):
        drawing = Figure(figsize=(3.2, 2.1), layout="constrained")
        axes = drawing.subplots()
        points = evaluation.get("points") or []
        axes.plot(
            [p[0] for p in points],
            [_number(p[1]) for p in points],
            color=LIGHT.transferred,
            marker="o",
            markersize=3.2,
            linewidth=1.7,
            label="transferred",
        )
        for name, colour, dashes in (
            ("native", LIGHT.native, "-"),
            ("random", LIGHT.random, "--"),
            ("unsteered", LIGHT.muted, ":"),
        ):
            if evaluation.get(name) is not None:
                axes.axhline(evaluation[name], color=colour, linewidth=1.2, linestyle=dashes, label=name)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("step")
        if not bare:
            axes.set_title(behaviour_name(str(evaluation.get("behaviour", ""))), loc="left")
            axes.legend(fontsize=7)
    return drawing


def _no_data(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=LIGHT.muted)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
