"""Tables and the figure of docs/results/families.md: several runs of experiment=families, side by side.

python -m studies.families docs/results/*-*/results.json --figure docs/results/families.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lrt.report.dose_tables import dose_of, dose_text
from lrt.report.figures import FIGURE_STYLE, UNITS
from lrt.report.numerals import MISSING, score, share, share_interval
from lrt.report.palette import CURVES, LIGHT, behaviour_name, condition_name
from lrt.report.table import Cell, Table

Results = Mapping[str, Any]
SHOWN = ("native", "transferred", "untrained_source", "random")  # curves of the figure


def pair_name(results: Results) -> str:
    """The two models, for people."""
    return " → ".join(results["pair"][side]["name"] for side in ("source", "target"))


def behaviours(results: Results) -> Iterator[Mapping[str, Any]]:
    """Summaries of a run's behaviours, in its order."""
    yield from results["behaviours"]


def with_interval(value: float | None, bounds: Sequence[float] | None) -> str:
    """`98% (95 to 101%)`."""
    if value is None:
        return MISSING
    return share(value) if bounds is None else f"{share(value)} ({share_interval(bounds)})"


def effect_table(runs: Sequence[Results]) -> Table:
    """Effect at the chosen strength, beside the plain prompt and the strongest nulls."""
    rows: list[tuple[Cell, ...]] = []
    for results in runs:
        for b in behaviours(results):
            nulls = dict(b["nulls"])
            untrained = nulls.pop("untrained_source", None)
            strongest = max(nulls, key=nulls.__getitem__, default=None)
            rows.append(
                (
                    pair_name(results),
                    behaviour_name(b["name"]),
                    f"{b['layer']} at {score(b['strength'])}",
                    f"{score(b['unsteered'])} → {score(b['native'])}",
                    score(b["transferred"]),
                    score(b["prompt"]),
                    with_interval(b["ratio"], b["ratio_ci"]),
                    share(untrained),
                    f"{share(nulls[strongest])}, {condition_name(strongest)}" if strongest else None,
                )
            )
    columns = (
        "pair",
        "behaviour",
        "block, strength",
        "native",
        "transferred",
        "plain prompt",
        "transferred / native, 95% over items",
        "untrained source / native",
        "strongest other null",
    )
    return Table("Effect at the strength chosen for the native vector", columns, tuple(rows), columns)


def dose_table(runs: Sequence[Results]) -> Table:
    """How much strength each vector needs for half of the native effect, and what the forecast said."""
    rows: list[tuple[Cell, ...]] = []
    for results in runs:
        cosines = results["maps"][0]["cosine_with_native"]
        for b in behaviours(results):
            label = f"{b['contrast']}@{b['layer']}"
            cosine = cosines.get(label, cosines.get(b["contrast"]))
            forecast = b["forecast"]
            rows.append(
                (
                    pair_name(results),
                    behaviour_name(b["name"]),
                    _dose(b, "transferred"),
                    _dose(b, "untrained_source"),
                    b["verdict"],
                    None if cosine is None else score(cosine),
                    f"{forecast['signal_to_noise']:.1f}" + (", warns" if forecast["warning"] else ""),
                )
            )
    columns = (
        "pair",
        "behaviour",
        "dose ratio, transferred",
        "dose ratio, untrained source",
        "verdict",
        "cosine with native",
        "forecast: signal to noise",
    )
    return Table("Dose for half of the native effect", columns, tuple(rows), columns)


def _dose(summary: Mapping[str, Any], condition: str) -> str | None:
    text, bounds = dose_text(summary, condition), dose_of(summary, condition).get("ci")
    if text is None or bounds is None or None in bounds:
        return text
    return f"{text} ({share_interval(bounds)})"


def curves(runs: Sequence[Results], names: Sequence[str]) -> Figure:
    """Score over strength: a row a pair, a column a behaviour."""
    with matplotlib.rc_context(FIGURE_STYLE):
        drawing = Figure(figsize=(2.5 * len(names), 2.0 * len(runs) + 0.4), layout="constrained")
        panels = drawing.subplots(len(runs), len(names), squeeze=False)
        for row, results in zip(panels, runs, strict=True):
            found = {b["name"]: b for b in behaviours(results)}
            for axes, name in zip(row, names, strict=True):
                axes.set_title(behaviour_name(name), loc="left", fontsize=8)
                if name not in found:
                    axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
                    continue
                for condition in SHOWN:
                    points = found[name]["curves"].get(condition) or []
                    axes.plot(
                        [p["strength"] for p in points],
                        [p["mean"] for p in points],
                        color=getattr(LIGHT, condition),
                        linestyle=CURVES[condition][1],
                        linewidth=1.7 if condition in SHOWN[:2] else 1.3,
                        marker="o",
                        markersize=2.6,
                        label=CURVES[condition][0],
                    )
            row[0].set_ylabel(pair_name(results).replace(" → ", "\n→ "), fontsize=7)
        handles, labels = panels[0][0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside upper center", ncols=len(SHOWN))
        drawing.supxlabel(f"strength, {UNITS['residual_norm']}", fontsize=8)
    return drawing


def main() -> None:
    """Print the tables, and draw the figure where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of the runs, in order")
    parser.add_argument("--figure", type=Path, help="PNG file to write")
    parser.add_argument("--behaviours", nargs="+", default=["french", "capitals", "dogs", "sentiment"])
    arguments = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in arguments.results]
    print(effect_table(runs).markdown())
    print(dose_table(runs).markdown())
    if arguments.figure:
        curves(runs, arguments.behaviours).savefig(arguments.figure, dpi=110)


if __name__ == "__main__":
    main()
