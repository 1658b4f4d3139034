"""Dose ratios and curve shares: the transferred vector beside every null, and what counts as transferred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lrt.report.contents import Results
from lrt.report.numerals import share, share_interval
from lrt.report.palette import behaviour_name, condition_name
from lrt.report.table import Cell, Table

COMPARED = ("transferred", "not above an untrained source")  # verdicts on which an untrained source has a say


def dose_of(summary: Mapping[str, Any], condition: str) -> Mapping[str, Any]:
    """Dose ratio and curve share of one condition of a behaviour; empty where there are none."""
    conditions: Mapping[str, Any] = (summary.get("dose") or {}).get("conditions") or {}
    return conditions.get(condition) or {}


def dose_text(summary: Mapping[str, Any], condition: str) -> str | None:
    """`95%`, or `below 30%` where the effect is not reached; None where there is no dose ratio."""
    dose = dose_of(summary, condition)
    if dose.get("ratio") is not None:
        return share(dose["ratio"])
    return f"below {share(dose['below'])}" if dose.get("below") is not None else None


def dose_table(results: Results) -> Table:
    """Dose ratio and curve share of the transferred vector and of every null, one row each."""
    rows: list[tuple[Cell, ...]] = [
        (
            behaviour_name(b["name"]),
            condition_name(name),
            dose_text(b, name),
            share_interval(dose.get("ci")),
            dose.get("share"),
            share_interval(dose.get("share_ci")),
            b["dose"]["native_strength"],
            b["dose"]["largest_strength"],
        )
        for b in results.get("behaviours") or []
        for name, dose in ((b.get("dose") or {}).get("conditions") or {}).items()
    ]
    return Table(
        "Dose of the transferred vector and of every null",
        (
            "behaviour",
            "condition",
            "dose ratio",
            "95% interval",
            "curve share",
            "95% interval, curve share",
            "native strength of half the effect",
            "largest strength",
        ),
        tuple(rows),
        ("behaviour", "condition", "dose ratio", "95% interval", "curve share"),
    )


def verdicts(results: Results) -> str:
    """How many behaviours count as transferred, in words; empty where no native vector steers."""
    counts = Counter(b["verdict"] for b in results.get("behaviours") or [] if b.get("verdict"))
    parts = []
    if compared := sum(counts[each] for each in COMPARED):
        parts.append(
            f"{counts['transferred']} of {compared} behaviours count as transferred: their dose ratio is "
            "above that of every untrained source."
        )
    if alone := counts["not compared with an untrained source"]:
        parts.append(f"{alone} of {counts.total()} behaviours were not compared with an untrained source.")
    return " ".join(parts)


def verdict_figure(results: Results) -> tuple[str, str] | None:
    """How many behaviours count as transferred, and what that means; None where none was compared."""
    found = [b.get("verdict") for b in results.get("behaviours") or []]
    compared = sum(each in COMPARED for each in found)
    if not compared:
        return None
    return (
        f"{found.count('transferred')} of {compared}",
        "behaviours whose dose ratio is above every untrained source's",
    )
