"""The tables that the terminal shows when a stage ends. The report has all of them with more columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrt.report.answers import propensity_table
from lrt.report.contents import Results, damage_of, strongest_null
from lrt.report.numerals import score, share
from lrt.report.palette import behaviour_name, condition_name
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
            f"{100 * card['metrics']['excess_over_optimum']:+.2f}%",
            f"{card['metrics']['fvu_tokens']:.4f}",
            f"{card['metrics']['fvu_unfiltered']:.4f}",
            card["rows"],
            card["rows_excluded"],
        )
        for name, card in cards.items()
    ]
    first = next(iter(cards.values()))
    tokens = first["pool"]
    row_column = f"pooled training rows (mean of {tokens} tokens)" if tokens > 1 else "training rows"
    return Table(
        f"{first['pair']}: {str(first['map']['kind']).replace('_', ' ')} map, on test documents",
        (
            "map",
            "FVU",
            "FVU of the reference ridge",
            "excess over it",
            "FVU, single tokens",
            "FVU, massive activations included",
            row_column,
            "tokens excluded",
        ),
        tuple(rows),
        ("map", "FVU", "excess over it", "FVU of the reference ridge", row_column),
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
            "strongest null",
            "damage",
        ),
        tuple(rows),
        (
            "behaviour",
            "transfer ratio",
            "strongest null",
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
        return "no native effect"
    if not behaviour.get("ratio_ci"):
        return share(behaviour["ratio"])
    low, high = (share(bound) for bound in behaviour["ratio_ci"])
    return f"{share(behaviour['ratio'])} [{low}, {high}]"


def summary_tables(results: Results) -> tuple[Table, ...]:
    """What the terminal shows of an evaluation: headline, nulls, propensity, each if it has rows."""
    tables = (headline_brief(results), null_table(results), propensity_table(results))
    return tuple(table for table in tables if table.rows)
