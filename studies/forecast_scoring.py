"""How well the forecasts of finished runs told what was then measured.

python -m studies.forecast_scoring RESULTS.json ...

Reads any number of `report/results.json`. A point is a behaviour of one of them that has a ratio and whose
random, shuffled-pairs and bias nulls keep no more than the limit: a share of what anything does is no
transfer. Vectors (behaviours that share a contrast share one) are drawn anew for the intervals, each with
all of its points.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from lrt.report import Table
from lrt.report.contents import HELD_NULLS, NULL_LIMIT
from studies.predictor_scoring import rank_correlation

# what a forecast says, and whether more of it is better
SAID = {"signal_to_noise": 1, "agreement_documents": 1, "agreement_parts": 1, "residual_on_prompts": -1}
KEPT = 0.9  # of the native effect: what a warning is held against


def points(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was forecast of every behaviour with a ratio, the ratio, and whether its nulls failed as they
    ought to."""
    return [
        {
            **b["forecast"],
            "behaviour": b["name"],
            "vector": b.get("contrast") or b["name"],
            "ratio": b["ratio"],
            "nulls_fail": all(b["nulls"].get(name, 0.0) <= NULL_LIMIT for name in HELD_NULLS),
        }
        for found in results
        for b in found["behaviours"]
        if b.get("ratio") is not None and (b.get("forecast") or {}).get("signal_to_noise") is not None
    ]


def table(found: list[dict[str, Any]]) -> Table:
    """Rank correlation of each figure of the forecast with the ratio; a figure that some lack is told of
    those that have it."""
    rows: list[tuple[Any, ...]] = []
    for name, sign in SAID.items():
        have = [p for p in found if p.get(name) is not None]
        groups = [p["vector"] for p in have]
        if len(set(groups)) < 2:
            continue
        r = rank_correlation([sign * p[name] for p in have], [p["ratio"] for p in have], groups)
        rows.append((name.replace("_", " "), len(have), len(set(groups)), r.value, r.low, r.high))
    columns = ("figure", "points", "vectors", "Spearman", "2.5%", "97.5%")
    return Table("Forecast and ratio", columns, tuple(rows))


def warnings_told(found: list[dict[str, Any]]) -> str:
    """How often the report's warning was right."""
    short = [p for p in found if p["ratio"] < KEPT]
    kept = [p for p in found if p["ratio"] >= KEPT]
    told = [sum(p["warning"] is not None for p in part) for part in (short, kept)]
    return (
        f"warned of {told[0]} of {len(short)} that keep less than {KEPT:.0%}, and of {told[1]} of "
        f"{len(kept)} that keep as much"
    )


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where there is nothing to correlate."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.forecast_scoring",
        description="Rank correlation of forecasts with what was measured.",
    )
    parser.add_argument("files", nargs="+", type=Path, help="report/results.json of finished runs")
    asked = parser.parse_args(arguments)
    try:
        every = points([json.loads(file.read_text(encoding="utf-8")) for file in asked.files])
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"no results of a run can be read: {error!r}")
    found = [p for p in every if p["nulls_fail"]]
    if len({p["vector"] for p in found}) < 2:
        parser.error(f"{len(found)} points of fewer than two vectors: give results of runs that have ratios")
    console = Console(soft_wrap=True)
    console.print(table(found))
    console.print(warnings_told(found))
    if left := sorted({p["behaviour"] for p in every if not p["nulls_fail"]}):
        console.print(f"left out, since nulls keep more than {NULL_LIMIT:.0%}: {', '.join(left)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
