"""The tables that the terminal shows when a stage ends. The report has all of them with more columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrt.report.answers import propensity_table
from lrt.report.contents import Results, damage_of, strongest_null
from lrt.report.dose_tables import dose_text
from lrt.report.next_steps import next_steps
from lrt.report.null_tables import evidence_table
from lrt.report.numerals import MINUS, score, share
from lrt.report.palette import behaviour_name, condition_name
from lrt.report.price_tables import break_even_table
from lrt.report.table import Cell, Table
from lrt.report.transfer_tables import null_table


def fit_table(cards: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per fitted map: its error on test documents beside the reference ridge's.

    cards  The maps' cards by the maps' names, not empty.
    """
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            f"{card['metrics']['fvu']:.4f}",
            f"{card['metrics']['optimum_fvu']:.4f}",
            f"{100 * card['metrics']['excess_over_optimum']:+.2f}%".replace("-", MINUS),
            f"{card['metrics']['fvu_tokens']:.4f}",
            f"{card['metrics']['fvu_unfiltered']:.4f}",
            card["rows"]["train"],
            card["rows_excluded"],
        )
        for name, card in cards.items()
    ]
    first = next(iter(cards.values()))
    kind, pool = str(first["map"]["kind"]).replace("_", " "), first["corpus"]["pool"]
    pooled = f"; pooled rows are means of {pool} tokens" if pool > 1 else ""
    rows_column = "pooled rows" if pool > 1 else "training tokens"
    return Table(
        f"{first['pair']}: {kind} map, on test documents{pooled}",
        (
            "map",
            "FVU",
            "FVU, reference ridge",
            "excess",
            "FVU, single tokens",
            "FVU, none excluded",
            rows_column,
            "tokens excluded",
        ),
        tuple(rows),
        ("map", "FVU", "excess", "FVU, reference ridge", rows_column),
    )


def headline_brief(results: Results) -> Table:
    """One row per behaviour: test scores, transfer ratio with its interval, strongest null, damage."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        null = strongest_null(b)
        rows.append(
            (
                behaviour_name(b["name"]),
                b.get("layer"),
                b.get("strength"),
                score(b.get("unsteered")),
                score(b.get("native")),
                score(b.get("transferred")),
                _ratio(b),
                dose_text(b, "transferred"),
                dose_text(b, "untrained_source"),
                b.get("verdict") or None,
                score(b["prompt"]) if b.get("prompt") is not None else None,
                f"{share(null[1])} {condition_name(null[0])}" if null else None,
                share(damage_of(b, "transferred")),
            )
        )
    return Table(
        f"On {results.get('split') or 'test'} items",
        (
            "behaviour",
            "layer",
            "strength",
            "unsteered",
            "native",
            "transferred",
            "transfer ratio",
            "dose ratio",
            "dose ratio, untrained source",
            "verdict",
            "plain prompt",
            "strongest null",
            "damage",
        ),
        tuple(rows),
        (
            "behaviour",
            "transfer ratio",
            "dose ratio",
            "dose ratio, untrained source",
            "verdict",
            "strongest null",
            "plain prompt",
            "native",
            "transferred",
            "unsteered",
            "damage",
            "strength",
            "layer",
        ),
    )


def _ratio(behaviour: Mapping[str, Any]) -> str:
    if behaviour.get("ratio") is None:
        return "undefined"
    if not behaviour.get("ratio_ci"):
        return share(behaviour["ratio"])
    low, high = (share(bound).removesuffix("%") for bound in behaviour["ratio_ci"])
    return f"{share(behaviour['ratio'])} [{low}, {high}]"


def summary_tables(results: Results) -> tuple[Table, ...]:
    """What the terminal shows of an evaluation: headline, what each behaviour says, nulls, main columns of
    propensity and price, and for each behaviour that is not steered what was tried and what to try next; if
    not empty."""
    sections = next_steps(results)
    tables = (
        headline_brief(results),
        evidence_table(results),
        null_table(results),
        propensity_table(results).brief(),
        break_even_table(results).brief(),
        *(table for section in sections for table in (section.tried, section.brief())),
    )
    return tuple(table for table in tables if table.rows)
