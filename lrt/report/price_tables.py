"""When a map pays: effect of vectors from few contrastive pairs, and what they cost on the target."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lrt.report.contents import Results
from lrt.report.figures import FIGURE_STYLE
from lrt.report.numerals import figure, share, share_interval
from lrt.report.palette import LIGHT, behaviour_name
from lrt.report.table import Cell, Table

KINDS = {
    "native": ("native", LIGHT.native, "-"),
    "transferred": ("transferred, same pairs", LIGHT.transferred, "-"),
    "blended": ("blend", LIGHT.source, (0, (4, 2))),
}
READINGS = {"chosen": "", "equal_damage": ", equal damage"}
BOUNDS = {"at least": "≥ ", "at most": "≤ "}


def priced(results: Results) -> list[Mapping[str, Any]]:
    """The behaviours that were priced."""
    return list((results.get("price") or {}).get("behaviours") or [])


def price_headline(results: Results) -> str:
    """One sentence: from how many vectors on the maps pay, over all behaviours; empty without any."""
    break_evens = [at for each in priced(results) if (at := _break_even(each, _reading(each)))]
    if not break_evens:
        return ""
    pays = [at for at in break_evens if at["vectors"] is not None]
    if not pays:
        behaviours = f"{len(break_evens)} behaviours"
        return f"The map never pays: no transferred vector of {behaviours} has an effect of its own."
    counts = [at["vectors"] for at in pays]
    between = f" ({figure(min(counts))} to {figure(max(counts))})" if min(counts) < max(counts) else ""
    over = f"median of {len(pays)} behaviours" if len(pays) > 1 else "one behaviour"
    never = f"; it never pays for {len(break_evens) - len(pays)} more" if len(pays) < len(break_evens) else ""
    return f"The map pays from {figure(round(median(counts)))} vectors on{between}, {over}{never}."


def break_even_table(results: Results) -> Table:
    """From how many vectors on a map pays, by behaviour; at equal damage where that is known."""
    rows: list[tuple[Cell, ...]] = []
    for each in priced(results):
        reading = _reading(each)
        at, shares = _break_even(each, reading), (each.get(reading) or {}).get("shares") or {}
        ours = shares.get("transferred") or {}
        rows.append(
            (
                behaviour_name(each["name"]),
                share(ours.get("value")),
                share_interval(ours.get("interval")),
                "equal damage" if reading == "equal_damage" else "the chosen strength",
                _bounded(at, "pairs", _INVERSE),
                at["tokens"] if at else None,
                each["map_tokens"],
                _vectors(at),
                _vectors_interval(at),
                _note(each),
            )
        )
    for name, note in ((results.get("price") or {}).get("notes") or {}).items():
        rows.append((behaviour_name(name), *[None] * 8, note))
    return Table(
        "From how many vectors on the map pays",
        (
            "behaviour",
            "transferred, all pairs",
            "95% interval",
            "at",
            "native pairs of equal effect",
            "their target tokens",
            "target tokens of the map",
            "pays from (vectors)",
            "95% interval of that",
            "note",
        ),
        tuple(rows),
        (
            "behaviour",
            "pays from (vectors)",
            "transferred, all pairs",
            "native pairs of equal effect",
            "note",
        ),
    )


def price_table(results: Results) -> Table:
    """Effects of vectors from few pairs, as shares of the change by the native vector from all pairs."""
    rows: list[tuple[Cell, ...]] = []
    for each in priced(results):
        for few in each["few_shot"]:
            cells: list[Cell] = [behaviour_name(each["name"]), few["pairs"], few["draws"]]
            for kind in KINDS:
                for reading in READINGS:
                    at = ((each.get(reading) or {}).get("shares") or {}).get(f"{kind} {few['pairs']}")
                    cells += [share(at["value"]), share_interval(at["interval"])] if at else [None, None]
                cells.append(few["cosines"].get(kind))
            cells += [few["native_weight"], round(each["tokens"][str(few["pairs"])])]
            rows.append(tuple(cells))
    columns = [
        column
        for label, _, _ in KINDS.values()
        for column in (
            *(
                column
                for suffix in READINGS.values()
                for column in (f"{label}{suffix}", f"95% interval, {label}{suffix}")
            ),
            f"cosine, {label}",
        )
    ]
    return Table(
        "Vectors from few contrastive pairs, as shares of the native vector from all pairs",
        ("behaviour", "pairs", "draws", *columns, "weight of native in the blend", "target tokens of native"),
        tuple(rows),
        ("behaviour", "pairs", *(f"{label}{READINGS['equal_damage']}" for label, _, _ in KINDS.values())),
    )


def price_figure(each: Mapping[str, Any]) -> Figure:
    """Effect of one behaviour's vectors against the number of pairs, with 95% bands."""
    reading = _reading(each)
    shares = (each.get(reading) or {}).get("shares") or {}
    with matplotlib.rc_context(FIGURE_STYLE):
        drawing = Figure(figsize=(3.2, 2.3), layout="constrained")
        axes = drawing.subplots()
        for kind, (label, colour, dashes) in KINDS.items():
            points = [
                (few["pairs"], shares[name])
                for few in each["few_shot"]
                if (name := f"{kind} {few['pairs']}") in shares
            ]
            counts = [count for count, _ in points]
            low, high = ([at["interval"][end] for _, at in points] for end in (0, 1))
            axes.fill_between(counts, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(
                counts,
                [at["value"] for _, at in points],
                color=colour,
                linestyle=dashes,
                marker="o",
                markersize=3.2,
                linewidth=1.6,
                label=label,
            )
        if "transferred" in shares:
            axes.axhline(
                shares["transferred"]["value"], color=LIGHT.transferred, linestyle=":", linewidth=1.2
            )
        counts = [few["pairs"] for few in each["few_shot"]]
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts or [1], [str(count) for count in counts or [1]])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: share(y)))
        axes.set_ylim(-0.25, 1.5)  # intervals of few draws would hide the rest
        axes.set_xlabel("contrastive pairs")
    return drawing


_INVERSE = {"at least": "at most", "at most": "at least"}
"""More pairs for a vector make fewer vectors."""


def _reading(each: Mapping[str, Any]) -> str:
    return "equal_damage" if each.get("equal_damage") else "chosen"


def _break_even(each: Mapping[str, Any], reading: str) -> Mapping[str, Any] | None:
    return (each.get(reading) or {}).get("break_even")


def _bounded(at: Mapping[str, Any] | None, name: str, bounds: Mapping[str, str]) -> str | None:
    if at is None or at[name] is None:
        return None
    return BOUNDS.get(bounds.get(at["bound"], ""), "") + figure(at[name])


def _vectors(at: Mapping[str, Any] | None) -> str | None:
    if at is None:
        return None
    return "never" if at["vectors"] is None else BOUNDS.get(at["bound"], "") + figure(at["vectors"])


def _vectors_interval(at: Mapping[str, Any] | None) -> str | None:
    if at is None:
        return None
    low, high = ("never" if bound is None else figure(bound) for bound in at["interval"])
    return low if low == high else f"{low} to {high}"


def _note(each: Mapping[str, Any]) -> str:
    notes = []
    if each.get("chosen") is None:
        notes.append("native does not steer")
    if each.get("damaged"):
        notes.append("no strength keeps the native vector within the damage limit")
    if each["map_tokens"] is None:
        notes.append("the map was fitted before: its tokens are not known")
    if each["counts_left_out"]:
        counts = ", ".join(map(str, each["counts_left_out"]))
        notes.append(f"no vectors from {counts} pairs: there are {each['pairs']}")
    if each.get("chosen") and not each.get("equal_damage"):
        notes.append("the native vector does no damage, so none is matched")
    return "; ".join(notes)
