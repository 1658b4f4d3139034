"""What a person sees at the end of a stage: terminal tables, the report, W&B panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import wandb
from rich.table import Table as RichTable

from lrt.report import (
    Table,
    headline_table,
    null_table,
    propensity_table,
    strength_figure,
    write_report,
)
from lrt.runtime.pipeline import Pipeline
from lrt.runtime.session import Session


def fit(session: Session, pipeline: Pipeline, cards: dict[str, dict[str, Any]]) -> None:
    """The fitted maps beside their optima."""
    card = cards[pipeline.whole.name]
    table = RichTable(title=f"{card['pair']}: {card['map']['kind']} map, on test documents")
    for column in ("", *cards):
        table.add_column(column, justify="right" if column else "left")
    rows: Sequence[tuple[str, Callable[[dict[str, Any]], str]]] = (
        ("FVU", lambda c: f"{c['metrics']['fvu']:.4f}"),
        ("FVU of the ridge optimum", lambda c: f"{c['metrics']['optimum_fvu']:.4f}"),
        ("excess over the optimum", lambda c: f"{100 * c['metrics']['excess_over_optimum']:+.2f}%"),
        ("FVU of single tokens", lambda c: f"{c['metrics']['fvu_tokens']:.4f}"),
        (
            "of single tokens, massive activations included",
            lambda c: f"{c['metrics']['fvu_unfiltered']:.4f}",
        ),
        (f"training rows of {card['span']} tokens", lambda c: f"{c['rows']:,}"),
        ("tokens left out", lambda c: f"{c['rows_excluded']:,}"),
    )
    for name, told in rows:
        table.add_row(name, *(told(c) for c in cards.values()))
    session.console.print(table)
    for name, found in pipeline.fits.items():
        session.console.print(f"map, {name}: {found.folder}")
    said: dict[str, Any] = {f"map/{k}": v for k, v in card["metrics"].items() if isinstance(v, float)}
    said |= {f"fingerprint/map/{name}": found.fingerprint for name, found in pipeline.fits.items()}
    said |= {"fingerprint/store": pipeline.store_fingerprint}
    session.tell_wandb(lambda run: run.summary.update(said))


def evaluation(session: Session, results: dict[str, Any]) -> None:
    """The report, the headline table, and the same in W&B."""
    page = write_report(results, Path(session.config.paths.report))
    for table in (_in_brief(results), null_table(results), propensity_table(results)):
        if table.rows:
            session.console.print(table.rich())
    session.console.print(f"report: {page}")
    session.tell_wandb(lambda run: _panels(run, results))


def _in_brief(results: dict[str, Any]) -> Table:
    """What fits a terminal; the page has the rest."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.0f}%"

    rows: list[tuple[str | float | None, ...]] = []
    for b in results["behaviours"]:
        ratio = share(b["ratio"])
        if b["ratio_ci"]:
            ratio += f" [{share(b['ratio_ci'][0])}, {share(b['ratio_ci'][1])}]"
        worst = max(b["nulls"].items(), key=lambda null: null[1], default=("", None))
        rows.append(
            (
                b["name"],
                b["layer"],
                b["strength"],
                f"{b['unsteered']:.2f}",
                f"{b['native']:.2f}",
                f"{b['transferred']:.2f}",
                ratio if b["steers"] else "native does not steer",
                f"{share(worst[1])} {worst[0]}",
                share(b["damage"].get("transferred", {}).get("relative")),
            )
        )
    columns = (
        "behaviour",
        "block",
        "strength",
        "none",
        "native",
        "carried",
        "carried/native",
        "worst null",
        "damage",
    )
    return Table(f"On {results['split']} items", columns, tuple(rows))


def _panels(run: Any, results: dict[str, Any]) -> None:
    headline = headline_table(results)
    curves = [
        [b["name"], condition, point["strength"], point["mean"], point["low"], point["high"]]
        for b in results["behaviours"]
        for condition, points in b["curves"].items()
        for point in points
    ]
    columns = ["behaviour", "condition", "strength", "mean", "low", "high"]
    images = {}
    for behaviour in results["behaviours"]:
        figure = strength_figure(behaviour)
        images[f"strength/{behaviour['name']}"] = wandb.Image(figure)
    run.log(
        {
            "headline": _wandb_table(headline),
            "strength_curves": wandb.Table(columns=columns, data=curves),
            **images,
        }
    )
    figures = {f"map/{k}": v for k, v in results["map"].items() if _number(v)}
    for behaviour in results["behaviours"]:
        for key in ("strength", "unsteered", "native", "transferred", "ratio"):
            if _number(behaviour[key]):
                figures[f"{behaviour['name']}/{key}"] = behaviour[key]
    prints = results["provenance"]["fingerprints"]
    run.summary.update(figures | {f"fingerprint/{k}": v for k, v in prints.items()})


def _wandb_table(table: Table) -> Any:
    # a column holds numbers and remarks; W&B wants one type each
    rows = [["" if cell is None else str(cell) for cell in row] for row in table.rows]
    return wandb.Table(columns=list(table.columns), data=rows)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
