"""The figures of one run. Each is a `Figure` of its own: nothing here touches pyplot's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lrt.report.numerals import count, share
from lrt.report.palette import CURVES, DARK, LIGHT, Palette, behaviour_name

UNITS = {
    "residual_norm": "in median residual norms",
    "absolute": "length of what is added",
    "share": "share of the component that is taken out",
}


def strength_figure(summary: Mapping[str, Any], dark: bool = False, *, bare: bool = False) -> Figure:
    """Mean score of one behaviour over strength with 95% bands; its damage in the strip below.

    `summary` is one of the results' `behaviours`. `bare` leaves out title and legend, which the
    page writes itself.
    """
    palette = DARK if dark else LIGHT
    curves, harm = summary.get("curves") or {}, summary.get("damage_curves") or {}
    harm = {name: harm[name] for name in ("native", "transferred", "random") if harm.get(name)}
    with matplotlib.rc_context(figure_style(palette)):
        drawing = Figure(figsize=(4.2, 3.1 if harm else 2.6), layout="constrained")
        if harm:
            axes, strip = drawing.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        else:
            axes, strip = drawing.subplots(), None
        for name, (label, dashes) in CURVES.items():
            points = curves.get(name)
            if not points:
                continue
            colour = getattr(palette, name)
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
            _say(axes, "no curve was measured", palette)
        for panel in (axes, strip):
            if panel is not None and summary.get("strength") is not None:
                panel.axvline(summary["strength"], color=palette.muted, linewidth=0.9, zorder=1)
        axes.set_ylabel("score")
        if strip is not None:
            for name, points in harm.items():
                axes_points = [(p["strength"], _number(p["relative"])) for p in points]
                if all(x != 0 for x, _ in axes_points):
                    # by definition: damage is the rise over the unsteered model
                    axes_points = sorted([*axes_points, (0.0, 0.0)])
                strip.plot(
                    [x for x, _ in axes_points],
                    [y for _, y in axes_points],
                    color=getattr(palette, name),
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


def loss_figure(training: Mapping[str, Any] | None, dark: bool = False, *, bare: bool = False) -> Figure:
    """FVU of the fit over steps, training and validation, with the closed-form optimum's line."""
    palette = DARK if dark else LIGHT
    training = training or {}
    with matplotlib.rc_context(figure_style(palette)):
        drawing = Figure(figsize=(4.8, 2.9), layout="constrained")
        axes = drawing.subplots()
        drawn = False
        for name, label, colour, width in (
            ("train", "training batches", palette.train, 1.2),
            ("val", "validation", palette.transferred, 1.9),
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
            axes.axhline(optimum, color=palette.optimum, linestyle="--", linewidth=1.2, label="ridge optimum")
        if drawn:
            values = [p[1] for name in ("train", "val") for p in training.get(name) or [] if p[1]]
            if values and min(values) > 0 and max(values) > 10 * min(values):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
            axes.legend()
        else:
            _say(axes, "no training curve: the map was not fitted by gradient", palette)
        axes.set_xlabel("step")
        axes.set_ylabel("FVU")
        if not bare:
            axes.set_title("Loss of the map", loc="left")
    return drawing


def training_curve_figure(probe: Mapping[str, Any], dark: bool = False, *, bare: bool = False) -> Figure:
    """One behaviour's score under the transferred vector while the map was being trained."""
    palette = DARK if dark else LIGHT
    with matplotlib.rc_context(figure_style(palette)):
        drawing = Figure(figsize=(3.2, 2.1), layout="constrained")
        axes = drawing.subplots()
        points = probe.get("points") or []
        axes.plot(
            [p[0] for p in points],
            [_number(p[1]) for p in points],
            color=palette.transferred,
            marker="o",
            markersize=3.2,
            linewidth=1.7,
            label="transferred",
        )
        for name, colour, dashes in (
            ("native", palette.native, "-"),
            ("unsteered", palette.muted, ":"),
        ):
            if probe.get(name) is not None:
                axes.axhline(probe[name], color=colour, linewidth=1.2, linestyle=dashes, label=name)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("step")
        if not bare:
            axes.set_title(behaviour_name(str(probe.get("behaviour", ""))), loc="left")
            axes.legend(fontsize=7)
    return drawing


def figure_style(palette: Palette) -> dict[str, Any]:
    """Matplotlib settings shared by every figure."""
    return {
        "figure.facecolor": palette.surface,
        "savefig.facecolor": palette.surface,
        "axes.facecolor": "none",
        "axes.edgecolor": palette.rule,
        "axes.labelcolor": palette.muted,
        "axes.titlecolor": palette.ink,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": palette.rule,
        "grid.linewidth": 0.6,
        "xtick.color": palette.rule,
        "ytick.color": palette.rule,
        "xtick.labelcolor": palette.muted,
        "ytick.labelcolor": palette.muted,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "legend.labelcolor": palette.muted,
        "text.color": palette.ink,
        "font.size": 8,
        "font.family": "DejaVu Sans",
    }


def _say(axes: Any, text: str, palette: Palette) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=palette.muted)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
