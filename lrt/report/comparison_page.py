"""The page of two runs side by side, with Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lrt.report.behaviour_section import ratio_mark, ratio_marks
from lrt.report.comparison import (
    Difference,
    comparison_headline,
    differences,
    separations,
    shared_behaviours,
)
from lrt.report.contents import Results, damage_of, model_at, strongest_null
from lrt.report.numerals import MINUS, MISSING, interval, score, share, share_interval
from lrt.report.palette import behaviour_name
from lrt.report.plain import leaves, plain, to_json
from lrt.report.table import Cell, Table, escape_markdown
from lrt.report.templating import render
from lrt.report.writing import write_files

RUNS = ("A", "B")


def difference_table(found: Sequence[Difference]) -> Table:
    """One row per difference, with both intervals and that of the difference."""
    rows: list[tuple[Cell, ...]] = []
    for each in found:
        value, bounds = (share, share_interval) if each.as_shares else (score, interval)
        (a, b), (a_bounds, b_bounds) = each.values, each.bounds
        rows.append(
            (
                behaviour_name(each.behaviour),
                each.quantity,
                value(a),
                bounds(a_bounds),
                value(b),
                bounds(b_bounds),
                _difference(each.value, each.as_shares),
                " to ".join(_difference(bound, each.as_shares) for bound in each.interval),
                "yes" if each.separated else "no",
            )
        )
    return Table(
        "Differences, B less A; shares in points",
        ("behaviour", "quantity", "A", "95% of A", "B", "95% of B", "B − A", "95% of B − A", "separated"),
        tuple(rows),
        ("behaviour", "quantity", "B − A", "separated", "95% of B − A", "A", "B"),
    )


def unbounded_table(a: Results, b: Results) -> Table:
    """What has no interval, so that no difference can be judged: verdicts, nulls, damage, the maps' FVU."""
    rows: list[tuple[Cell, ...]] = []
    for name, pair in shared_behaviours(a, b).items():
        figures: dict[str, list[Cell]] = {
            "verdict": [each.get("verdict") for each in pair],
            "strongest null": [share(null[1]) if (null := strongest_null(each)) else None for each in pair],
            "damage, native": [_share_or_gap(damage_of(each, "native")) for each in pair],
            "damage, transferred": [_share_or_gap(damage_of(each, "transferred")) for each in pair],
            "strength": [each.get("strength") for each in pair],
            "layer": [each.get("layer") for each in pair],
        }
        rows += [(behaviour_name(name), what, *values) for what, values in figures.items() if any(values)]
    for what, key in (("FVU", "fvu"), ("excess over the reference ridge", "excess_over_optimum")):
        values = [(each.get("map") or {}).get(key) for each in (a, b)]
        if any(value is not None for value in values):
            rows.append(("map", what, *values))
    return Table("Without intervals", ("of", "quantity", "A", "B"), tuple(rows))


def settings_table(a: Results, b: Results) -> Table:
    """Settings whose values differ, by their paths in the config."""
    left, right = _settings(a), _settings(b)
    rows: list[tuple[Cell, ...]] = [
        (path, left.get(path, MISSING), right.get(path, MISSING))
        for path in dict.fromkeys((*left, *right))
        if left.get(path) != right.get(path)
    ]
    return Table("Settings that differ", ("setting", "A", "B"), tuple(rows))


def comparison_warnings(a: Results, b: Results) -> list[str]:
    """Why figures of the two runs are not of the same kind, and what only one of them has."""
    said = []
    splits = [each.get("split") or "test" for each in (a, b)]
    if len({*splits}) > 1:
        said.append(f"A is of {splits[0]} items, B of {splits[1]} items.")
    for name, pair in shared_behaviours(a, b).items():
        for key, what in (
            ("metric", "scored by"),
            ("items", "items:"),
            ("strength_unit", "strength in"),
            ("operation", "operation:"),
        ):
            values = [each.get(key) for each in pair]
            if None not in values and values[0] != values[1]:
                said.append(f"{behaviour_name(name)}: {what} {values[0]} in A, {values[1]} in B.")
    names = [{each["name"]: None for each in run.get("behaviours") or []} for run in (a, b)]
    for label, own, other in zip(RUNS, names, reversed(names), strict=True):
        if alone := [behaviour_name(name) for name in own if name not in other]:
            said.append(f"Only in {label}: {', '.join(alone)}.")
    return said


def write_comparison(
    a: Results, b: Results, labels: tuple[str, str], folder: Path, *, setting: str = "--to"
) -> Path:
    """Write `compare.html`, `compare.md` and `compare.json` into `folder`; returns the page's path.

    a, b    Records as `results.json` holds them.
    labels  Where they are from, for readers.
    setting Named in the ReportUnwritable that is raised if `folder` cannot be written to.
    """
    a, b = plain(a), plain(b)
    found = differences(a, b)
    tables = [difference_table(found), unbounded_table(a, b), settings_table(a, b)]
    headline, lists, notes = comparison_headline(found), separations(found), comparison_warnings(a, b)
    runs = [
        {
            "label": label,
            "where": where,
            "pairing": " → ".join(model_at(run, side) for side in ("source", "target")),
            "date": (run.get("provenance") or {}).get("date") or "",
        }
        for label, where, run in zip(RUNS, labels, (a, b), strict=True)
    ]
    page = render(
        "compare.html",
        headline_text=headline,
        separations=lists,
        notes=notes,
        runs=runs,
        tables=tables,
        behaviours=[
            {"name": name, "runs": [_drawn(each) for each in pair]}
            for name, pair in shared_behaviours(a, b).items()
        ],
        zero=ratio_mark(0.0)["left"],
        reference=ratio_mark(1.0)["left"],
    )
    sources = [f"{each['label']}: {each['where']}, {each['pairing']}, {each['date']}" for each in runs]
    parts = [
        "# Comparison of two runs",
        escape_markdown(headline),
        *(
            "\n".join(f"- {escape_markdown(line)}" for line in lines)
            for lines in (sources, [f"{title}: {text}" for title, text in lists], notes)
        ),
        *(table.markdown().rstrip() for table in tables if table.rows),
    ]
    record = {
        "runs": dict(zip(RUNS, labels, strict=True)),
        "differences": [
            {
                "behaviour": each.behaviour,
                "quantity": each.quantity,
                **{
                    label: {"value": value, "ci": bounds}
                    for label, value, bounds in zip(RUNS, each.values, each.bounds, strict=True)
                },
                "difference": each.value,
                "ci": each.interval,
                "separated": each.separated,
            }
            for each in found
        ],
        "warnings": notes,
    }
    write_files(
        folder,
        {
            "compare.json": to_json(plain(record)),
            "compare.md": ("\n\n".join(part for part in parts if part) + "\n").encode(),
            "compare.html": page.encode(),
        },
        setting,
    )
    return folder / "compare.html"


def _drawn(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "drawn": ratio_marks(summary),
        "ratio": summary.get("ratio"),
        "ratio_ci": summary.get("ratio_ci"),
        "verdict": summary.get("verdict"),
    }


def _difference(value: float, as_shares: bool) -> str:
    text = f"{100 * value:+.0f}" if as_shares else f"{value:+.2f}"
    return text.replace("-", MINUS)


def _share_or_gap(value: float | None) -> str | None:
    return None if value is None else share(value)


def _settings(results: Results) -> dict[str, str]:
    """Values of the resolved config by path; the whole text where it is no mapping."""
    text = (results.get("provenance") or {}).get("config") or ""
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        config = text
    values = leaves(config if isinstance(config, Mapping) else {"config": config})
    return {path: str(value) for path, value in values}
