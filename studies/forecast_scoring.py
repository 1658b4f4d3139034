"""How well the forecasts of finished runs predict the transfer ratios that were then measured.

python -m studies.forecast_scoring RESULTS.json ...

Reads any number of `report/results.json`. A point is a behaviour of one of them that has a transfer ratio.
Points whose random, shuffled-pairs or bias null exceeds the limit are excluded: a ratio that any direction
reaches is no transfer. Intervals resample vectors, each with all of its points; behaviours that share a
contrastive set share a vector.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from lrt.report import Table
from lrt.report.contents import HELD_NULLS, NULL_LIMIT
from lrt.storage.text_files import read_json
from studies.predictor_scoring import rank_correlation

# figures of a forecast, and whether a higher one is better
FIGURES = {"signal_to_noise": 1, "agreement_documents": 1, "agreement_parts": 1, "residual_on_prompts": -1}
THRESHOLDS = (2.0, 5.0)  # of the signal to noise
TRANSFERRED = 0.9  # transfer ratio below which a warning is right


def points(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The forecast of every behaviour with a ratio, the ratio, and whether its nulls stay below the limit."""
    return [
        {
            **b["forecast"],
            "behaviour": b["name"],
            "kind": b.get("kind"),
            "vector": b.get("contrast") or b["name"],
            "ratio": b["ratio"],
            "nulls_fail": all(b["nulls"].get(name, 0.0) <= NULL_LIMIT for name in HELD_NULLS),
        }
        for result in results
        for b in result["behaviours"]
        if b.get("ratio") is not None and (b.get("forecast") or {}).get("signal_to_noise") is not None
    ]


def table(scored: list[dict[str, Any]]) -> Table:
    """Rank correlation of each figure of the forecast with the ratio, over the points that have it."""
    rows: list[tuple[Any, ...]] = []
    for name, sign in FIGURES.items():
        with_figure = [p for p in scored if p.get(name) is not None]
        groups = [p["vector"] for p in with_figure]
        if len(set(groups)) < 2:
            continue
        r = rank_correlation([sign * p[name] for p in with_figure], [p["ratio"] for p in with_figure], groups)
        rows.append((name.replace("_", " "), len(with_figure), len(set(groups)), r.value, r.low, r.high))
    columns = ("figure", "points", "vectors", "Spearman", "2.5%", "97.5%")
    return Table("Forecast and ratio", columns, tuple(rows))


def warnings_summary(scored: list[dict[str, Any]]) -> str:
    """How often the report's warning was right."""
    short = [p for p in scored if p["ratio"] < TRANSFERRED]
    whole = [p for p in scored if p["ratio"] >= TRANSFERRED]
    right, wrong = (sum(p["warning"] is not None for p in part) for part in (short, whole))
    return (
        f"warned of {right} of {len(short)} with a transfer ratio below {TRANSFERRED:.0%}, and of {wrong} of "
        f"{len(whole)} with a higher one"
    )


def by_kind(scored: list[dict[str, Any]]) -> Table:
    """How often a signal to noise below each threshold was right, by how behaviours are scored."""
    rows: list[tuple[Any, ...]] = []
    for kind in sorted({p["kind"] or "" for p in scored}):
        some = [p for p in scored if (p["kind"] or "") == kind]
        short = [p for p in some if p["ratio"] < TRANSFERRED]
        for threshold in THRESHOLDS:
            below = [p for p in some if p["signal_to_noise"] < threshold]
            right = sum(p["ratio"] < TRANSFERRED for p in below)
            vectors = len({p["vector"] for p in some})
            rows.append((kind, len(some), vectors, threshold, right, len(short), len(below) - right))
    columns = ("scored by", "points", "vectors", "threshold", "right", "of", "false")
    return Table("Warnings by how behaviours are scored", columns, tuple(rows))


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where there is nothing to correlate."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.forecast_scoring",
        description="Rank correlation of forecasts with measured transfer ratios.",
    )
    parser.add_argument("files", nargs="+", type=Path, help="report/results.json of finished runs")
    options = parser.parse_args(arguments)
    try:
        every = points([read_json(file, nan=True) for file in options.files])
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"cannot read results of a run: {error!r}")
    scored = [p for p in every if p["nulls_fail"]]
    if len({p["vector"] for p in scored}) < 2:
        parser.error(f"{len(scored)} points of fewer than two vectors: give results of runs that have ratios")
    console = Console(soft_wrap=True)
    console.print(table(scored))
    console.print(warnings_summary(scored))
    console.print(by_kind(every))  # answers to few questions are easily moved by nulls too
    if excluded := sorted({p["behaviour"] for p in every if not p["nulls_fail"]}):
        console.print(f"excluded, since a null exceeds {NULL_LIMIT:.0%}: {', '.join(excluded)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
