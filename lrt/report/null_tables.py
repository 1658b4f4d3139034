"""Nulls that steer: why each does, and the order of behaviours by how much they say about the hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrt.report.contents import Results
from lrt.report.numerals import share_interval
from lrt.report.palette import behaviour_name, condition_name
from lrt.report.table import Cell, Table


def evidence_table(results: Results) -> Table:
    """The behaviours in the order of how much more the transferred vector does than every null, the lower
    end of the interval first; by curve share, which sees what saturates at one strength."""
    ranked = sorted(
        ((excess, b) for b in results.get("behaviours") or [] if (excess := _excess(b))),
        key=lambda pair: pair[0]["ci"][0],
        reverse=True,
    )
    rows: list[tuple[Cell, ...]] = [
        (
            behaviour_name(b["name"]),
            excess["value"],
            share_interval(excess["ci"]),
            condition_name(excess["null"]),
            excess["null_share"],
            b.get("verdict") or "",
            _causes(b),
        )
        for excess, b in ranked
    ]
    return Table(
        "What each behaviour says about the hypothesis",
        (
            "behaviour",
            "excess over every null",
            "95% interval",
            "strongest null",
            "its curve share",
            "verdict",
            "nulls that steer, by cause",
        ),
        tuple(rows),
        ("behaviour", "excess over every null", "95% interval", "strongest null", "verdict"),
    )


def null_cause_table(results: Results) -> Table:
    """Every null with a large share of the native change: how much of it the component along the native
    vector predicts."""
    rows: list[tuple[Cell, ...]] = [
        (
            behaviour_name(b["name"]),
            _null_name(name, cause),
            cause["cause"],
            cause["share"],
            cause["cosine"],
            cause["projection"],
            cause.get("predicted"),
            cause.get("rest"),
            share_interval(cause.get("rest_ci")),
            cause.get("explained"),
            cause.get("damage"),
            cause.get("cosine_of_natives"),
        )
        for b in results.get("behaviours") or []
        for name, cause in (b.get("null_causes") or {}).items()
    ]
    return Table(
        "Why nulls steer",
        (
            "behaviour",
            "null",
            "cause",
            "share of native",
            "cosine with native",
            "share of its length along native",
            "share predicted by that component",
            "share of the rest",
            "95% interval, rest",
            "part explained",
            "damage",
            "cosine of both native vectors",
        ),
        tuple(rows),
        ("behaviour", "null", "cause", "share of native", "cosine with native", "part explained"),
    )


def _excess(behaviour: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return (behaviour.get("dose") or {}).get("excess")


def _causes(behaviour: Mapping[str, Any]) -> str:
    causes = (behaviour.get("null_causes") or {}).items()
    return ", ".join(f"{_null_name(name, cause)}: {cause['cause']}" for name, cause in causes)


def _null_name(name: str, cause: Mapping[str, Any]) -> str:
    if cause.get("behaviour"):
        return f"{condition_name(name)} ({behaviour_name(cause['behaviour'])})"
    return condition_name(name)
