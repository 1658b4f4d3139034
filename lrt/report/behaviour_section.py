"""What the page shows of one behaviour: its marks in the overview, effects beside nulls, generated texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrt.report import contents, dose_tables, side_effects
from lrt.report.figures import strength_figure
from lrt.report.numerals import MISSING, score, share, share_interval
from lrt.report.palette import behaviour_name, condition_name
from lrt.report.svg import inline_svg
from lrt.report.table import Cell, Table
from lrt.storage.catalogue import slug

RATIO_AXIS = (-0.2, 1.4)  # range of the axis on which a transfer ratio is drawn
SIDES = ("native", "transferred")


def behaviour_section(summary: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One of the results' `behaviours`, as the template takes it; `number` is its place among them."""
    null = contents.strongest_null(summary)
    shown = (
        "name",
        "strength",
        "layer",
        "unsteered",
        "native",
        "transferred",
        "ratio",
        "ratio_ci",
        "ratio_ci_map",
        "prompt",
        "prompt_ratio",
        "verdict",
        "map",
        "whole_corpus_ratio",
    )
    return {
        **{key: summary.get(key) for key in shown},
        "id": f"behaviour-{slug(str(summary.get('name')))}",
        "metric": summary.get("metric") or "",
        **{
            f"dose_{name}": {
                "text": dose_tables.dose_text(summary, name),
                "ci": dose_tables.dose_of(summary, name).get("ci"),
            }
            for name in ("transferred", "untrained_source")
        },
        "drawn": ratio_marks(summary),
        "null": null[1] if null else None,
        "null_name": null[0] if null else None,
        "damage_native": contents.damage_of(summary, "native"),
        "damage_transferred": contents.damage_of(summary, "transferred"),
        "effects_native": side_effects.effects_cell(summary, "native"),
        "effects_transferred": side_effects.effects_cell(summary, "transferred"),
        "note": summary.get("note") or "",
        "effects": effects_table(summary),
        "svg": inline_svg(strength_figure(summary, bare=True), f"strength{number}")
        if summary.get("curves")
        else None,
        "generations": _generations(summary),
    }


def effects_table(summary: Mapping[str, Any]) -> Table:
    """Every condition of one behaviour at the chosen strength: the vectors first, then each null."""
    nulls, details = summary.get("nulls") or {}, summary.get("null_details") or {}
    shares = {
        "native": (1.0 if summary.get("ratio") is not None else None, None),
        "transferred": (summary.get("ratio"), summary.get("ratio_ci")),
        "prompt": (summary.get("prompt_ratio"), summary.get("prompt_ratio_ci")),
        "whole_corpus": (summary.get("whole_corpus_ratio"), summary.get("whole_corpus_ratio_ci")),
    }
    rows: list[tuple[Cell, ...]] = [(condition_name("none"), summary.get("unsteered"), *[None] * 5)]
    for condition in (*SIDES, "prompt", "whole_corpus", "paper_literal"):
        ratio, bounds = shares.get(condition, (None, None))
        if summary.get(condition) is not None or ratio is not None:
            rows.append(
                (
                    condition_name(condition),
                    summary.get(condition),
                    share(ratio),
                    share_interval(bounds),
                    None,
                    *_dose_and_damage(summary, condition),
                )
            )
    rows += [
        (
            f"null: {condition_name(condition)}",
            None,
            share(mean),
            MISSING,
            share((details.get(condition) or {}).get("p95")),
            *_dose_and_damage(summary, condition),
        )
        for condition, mean in nulls.items()
    ]
    return Table(
        f"{behaviour_name(str(summary.get('name')))}: effects and nulls",
        (
            "condition",
            "score",
            "share of native",
            "95% interval",
            "95th percentile",
            "dose ratio",
            "damage",
        ),
        tuple(rows),
    )


def _dose_and_damage(summary: Mapping[str, Any], condition: str) -> tuple[Cell, Cell]:
    return dose_tables.dose_text(summary, condition), share(contents.damage_of(summary, condition))


def ratio_marks(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Places of dot, bars and nulls on the ratio's axis."""
    if summary.get("ratio") is None:
        return None

    def bar(bounds: Sequence[float] | None) -> dict[str, Any] | None:
        if not bounds:
            return None
        low, high = (ratio_mark(b) for b in bounds)
        return {
            "left": low["left"],
            "width": round(high["left"] - low["left"], 2),
            "beyond": [end["beyond"] for end in (low, high) if end["beyond"]],
        }

    nulls = (summary.get("nulls") or {}).values()
    return {
        "dot": ratio_mark(summary["ratio"]),
        "items": bar(summary.get("ratio_ci")),
        "map": bar(summary.get("ratio_ci_map")),
        "nulls": [ratio_mark(value) for value in nulls if value is not None],
    }


def ratio_mark(ratio: float) -> dict[str, Any]:
    """Place of a ratio in percent of `RATIO_AXIS`, capped at its ends; `beyond` names the end it is past."""
    low, high = RATIO_AXIS
    capped = min(max(ratio, low), high)
    beyond = "" if capped == ratio else "right" if ratio > high else "left"
    return {"left": round(100 * (capped - low) / (high - low), 2), "beyond": beyond}


def _generations(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The generated texts of each prompt by strength, and the strengths that the slider runs over."""
    examples = summary.get("examples") or []
    strengths = sorted(
        {t["strength"] for e in examples for t in e.get("texts") or [] if t["condition"] in SIDES}
    )
    if not examples:
        return None
    chosen = summary.get("strength")
    return {
        "labels": [f"{score(s)}{' (chosen)' if s == chosen else ''}" for s in strengths],
        "start": strengths.index(chosen) if chosen in strengths else max(len(strengths) - 1, 0),
        "examples": [
            {
                "prompt": example.get("prompt") or "",
                "fixed": [
                    _text(t) for t in example.get("texts") or [] if t["condition"] in ("none", "prompt")
                ],
                "steered": [
                    [
                        _text(t)
                        for t in example.get("texts") or []
                        if t["strength"] == s and t["condition"] not in ("none", "prompt")
                    ]
                    for s in strengths
                ],
            }
            for example in examples
        ],
    }


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    null = text["condition"] not in ("none", "prompt", *SIDES)
    return {
        "label": f"null: {condition_name(text['condition'])}" if null else condition_name(text["condition"]),
        "condition": text["condition"],
        "score": text.get("score"),
        "text": text["text"],
    }
