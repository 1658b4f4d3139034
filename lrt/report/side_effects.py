"""Side effects of steering and the quality of generated answers, as tables and as a cell of the headline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrt.report.contents import Results
from lrt.report.numerals import MINUS, interval, share, share_interval
from lrt.report.palette import behaviour_name, condition_name
from lrt.report.table import Cell, Table

KINDS = {
    "capability": "accuracy",
    "perplexity": "perplexity",
    "over_refusal": "refusals of harmless requests",
}


def side_effect_table(results: Results) -> Table:
    """One row per behaviour and condition: each kind's value, its change against unsteered, and intervals."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        effects = b.get("side_effects") or {}
        for condition in dict.fromkeys(name for kind in effects.values() for name in kind["conditions"]):
            cells: list[Cell] = []
            for kind in KINDS:
                at = (effects.get(kind) or {}).get("conditions", {}).get(condition) or {}
                shown = interval if kind == "perplexity" else share_interval
                cells += [at.get("value"), shown(at.get("ci")), at.get("change")]
                cells.append(share_interval(at.get("change_ci")))
            refusals = (effects.get("over_refusal") or {}).get("conditions", {}).get(condition) or {}
            cells.append(refusals.get("degenerate"))
            strength = None if condition == "none" else b.get("strength")
            rows.append((behaviour_name(b["name"]), condition_name(condition), strength, *cells))
    columns = [
        column
        for kind, name in KINDS.items()
        for column in (name, f"{name}, interval", f"{name}, change", f"{name}, change, interval")
    ]
    return Table(
        "Side effects at the chosen strength",
        ("behaviour", "condition", "strength", *columns, "degenerate answers to them"),
        tuple(rows),
        ("behaviour", "condition", *(f"{name}, change" for name in KINDS.values()), *KINDS.values()),
    )


def side_effect_sets_table(results: Results) -> Table:
    """Which items each kind was measured on."""
    sets: dict[str, tuple[Cell, ...]] = {}
    for b in results.get("behaviours") or []:
        for kind, each in (b.get("side_effects") or {}).items():
            sets.setdefault(kind, (KINDS[kind], each["origin"], each["items"], each["unscored"] or None))
    return Table(
        "Items of side effects", ("what", "items of", "items", "without a score"), tuple(sets.values())
    )


def quality_table(results: Results) -> Table:
    """Length, variety and share of degenerate answers by condition, and the change without those answers."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        graded = b.get("answers") or {}
        for condition, at in (graded.get("conditions") or {}).items():
            change = graded.get(f"{condition}_change")
            rows.append(
                (
                    behaviour_name(b["name"]),
                    condition_name(condition),
                    at["answers"],
                    at["words"],
                    at["distinct"],
                    at["degenerate"],
                    share_interval(at["degenerate_ci"]),
                    ", ".join(f"{count} {fault}" for fault, count in (at.get("faults") or {}).items()),
                    change,
                    interval(graded.get(f"{condition}_change_ci")) if change is not None else "",
                    graded.get("ratio") if condition == "transferred" else None,
                    share_interval(graded.get("ratio_ci")) if condition == "transferred" else "",
                )
            )
    return Table(
        "Generated answers, graded",
        (
            "behaviour",
            "condition",
            "answers",
            "words",
            "distinct-2",
            "degenerate",
            "95% interval, degenerate",
            "why",
            "change by other answers",
            "95% interval, change",
            "ratio by other answers",
            "95% interval, ratio",
        ),
        tuple(rows),
        (
            "behaviour",
            "condition",
            "degenerate",
            "ratio by other answers",
            "change by other answers",
            "distinct-2",
            "words",
        ),
    )


def effects_cell(behaviour: Mapping[str, Any], condition: str) -> str | None:
    """Changes by one condition in one cell, as `accuracy −2.5 points, perplexity +8.1%`; None without any."""
    effects = behaviour.get("side_effects") or {}
    parts = []
    for kind, each in effects.items():
        change = (each["conditions"].get(condition) or {}).get("change")
        if change is not None:
            size = share(abs(change))
            sign = "" if size == share(0.0) else "+" if change > 0 else MINUS
            points = size if kind == "perplexity" else f"{size.removesuffix('%')} points"
            parts.append(f"{_SHORT[kind]} {sign}{points}")
    return ", ".join(parts) or None


_SHORT = {"capability": "accuracy", "perplexity": "perplexity", "over_refusal": "refusals"}
