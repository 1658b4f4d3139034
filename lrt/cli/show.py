"""What a person sees at the end of a step: terminal tables, the report, W&B panels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import wandb

from lrt.cli.session import Session
from lrt.models.sides import SIDES
from lrt.pipeline import CorpusText, LayerPlan
from lrt.pipeline.maps import Maps
from lrt.pipeline.states import RecordedStates, States
from lrt.report import (
    Table,
    fit_table,
    format_layers,
    headline_table,
    strength_figure,
    summary_tables,
    write_report,
)


def recording(layers: LayerPlan, text: CorpusText, states: States) -> str:
    """What is recorded, and where it will be."""
    tokens = text.settings.tokens
    what = ", ".join(f"{side} {format_layers(layers.recorded.of(side).layers)}" for side in SIDES)
    where = f": {states.folder}" if isinstance(states, RecordedStates) else ", on the fly"
    return f"Recording states of {what} over {tokens.train + tokens.validation + tokens.test:,} tokens{where}"


def fitting(maps: Maps) -> str:
    """Which maps are fitted."""
    source, target = maps.whole.layers
    names = ", ".join(fit.name for fit in maps.all)
    return f"Fitting {len(maps.all)} maps, {source.total} -> {target.total}: {names}"


def maps(session: Session, maps: Maps, cards: Mapping[str, Mapping[str, Any]]) -> None:
    """The fitted maps beside their optima."""
    session.print_table(fit_table(cards))
    for fit in maps.all:
        session.print(f"map, {fit.name}: {fit.folder}")
    card = cards[maps.whole.name]
    summary: dict[str, Any] = {f"map/{k}": v for k, v in card["metrics"].items() if isinstance(v, float)}
    summary |= {f"fingerprint/map/{fit.name}": fit.fingerprint for fit in maps.all}
    summary |= {"fingerprint/store": card["store"]}
    session.tracking.wandb(lambda run: run.summary.update(summary))


def report(session: Session, results: dict[str, Any]) -> None:
    """The report, the headline table, and the same in W&B."""
    results = session.published.masked(results)
    page = write_report(results, session.report)
    for table in summary_tables(results):
        session.print_table(table)
    session.reported(page)
    session.tracking.wandb(lambda run: _panels(run, results))


def _panels(run: Any, results: dict[str, Any]) -> None:
    curves = [
        [b["name"], condition, point["strength"], point["mean"], point["low"], point["high"]]
        for b in results["behaviours"]
        for condition, points in b["curves"].items()
        for point in points
    ]
    columns = ["behaviour", "condition", "strength", "mean", "low", "high"]
    images = {f"strength/{b['name']}": wandb.Image(strength_figure(b)) for b in results["behaviours"]}
    run.log(
        {
            "headline": _wandb_table(headline_table(results)),
            "strength_curves": wandb.Table(columns=columns, data=curves),
            **images,
        }
    )
    figures = {f"map/{k}": v for k, v in results["map"].items() if _number(v)}
    for behaviour in results["behaviours"]:
        for key in ("strength", "unsteered", "native", "transferred", "prompt", "ratio"):
            if _number(behaviour[key]):
                name = "transfer_ratio" if key == "ratio" else key
                figures[f"{behaviour['name']}/{name}"] = behaviour[key]
        figures[f"{behaviour['name']}/verdict"] = behaviour["verdict"]
        doses = behaviour["dose"] or {}
        for end, value in zip(("low", "high"), doses.get("above_untrained") or (), strict=False):
            figures[f"{behaviour['name']}/above_untrained/{end}"] = value
        if excess := doses.get("excess"):
            figures[f"{behaviour['name']}/excess_over_nulls"] = excess["value"]
        for condition, dose in (doses.get("conditions") or {}).items():
            values = {
                "dose_ratio": dose["ratio"],
                "dose_ratio_below": dose["below"],
                "curve_share": dose["share"],
            }
            figures |= {
                f"{behaviour['name']}/{key}/{condition}": value
                for key, value in values.items()
                if _number(value)
            }
    prints = results["provenance"]["fingerprints"]
    run.summary.update(figures | {f"fingerprint/{k}": v for k, v in prints.items()})


def _wandb_table(table: Table) -> Any:
    # a column holds numbers and remarks; W&B wants one type each
    rows = [["" if cell is None else str(cell) for cell in row] for row in table.rows]
    return wandb.Table(columns=list(table.columns), data=rows)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
