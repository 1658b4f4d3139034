"""What W&B gets of a run: main figures by plain names, typed tables, and charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from lrt.evaluation.summary import HEADLINE
from lrt.pipeline.evaluation import Studied
from lrt.report import Table, strength_figure
from lrt.report.palette import CURVES, condition_name
from lrt.report.plain import leaves

GENERATED_ITEMS = 12
"""Items of a behaviour whose generated texts go into the table of generations."""

MAP_FIGURES = {
    "fvu": "min",
    "excess_over_optimum": "min",
    "fvu_tokens": "min",
    "fvu_validation": "min",
    "cosine": "max",
}
"""Figures of each map that are values of the run, and whether the least or the largest is best. The others
are in the table `map_figures`."""


def map_key(name: str, figure: str, whole: str) -> str:
    """The name of a map's figure: `map/fvu` of the whole-corpus map, `map/stories/fvu` of another."""
    return f"map/{figure}" if name == whole else f"map/{name}/{figure}"


def log_maps(run: Any, cards: Mapping[str, Mapping[str, Any]], whole: str) -> None:
    """The maps' figures and fingerprints, and the loss of each gradient fit against the optimum.

    cards  By the maps' names; `whole` is that of the whole-corpus map.
    """
    values: dict[str, Any] = {}
    for name, card in cards.items():
        figures = {k: v for k, v in card["metrics"].items() if k in MAP_FIGURES and _finite(v)}
        for figure, value in figures.items():
            key = map_key(name, figure, whole)
            run.define_metric(key, summary=MAP_FIGURES[figure])
            values[key] = value
        values["fingerprint/map" if name == whole else f"fingerprint/map/{name}"] = card["fingerprint"]
    values["fingerprint/store"] = cards[whole]["store"]
    charts = {f"loss/{name}": loss_chart(name, card) for name, card in cards.items() if card["steps"]}
    saturation = {
        f"saturation/{evaluation['behaviour']}": saturation_chart(evaluation)
        for card in cards.values()
        for evaluation in card["training"]["steering_evaluations"]
        if all(len(point) == 3 for point in evaluation["points"]) and evaluation["points"]  # earlier: no FVU
    }
    run.log({"map_figures": _typed(map_figures_table(cards)), **charts, **saturation})
    run.summary.update(values)


def log_results(run: Any, results: Mapping[str, Any], generations: Table) -> None:
    """The main figures of every behaviour, the tables, and the strength curves."""
    values: dict[str, Any] = {
        "fingerprint/measurements": results["provenance"]["fingerprints"]["measurements"]
    }
    for behaviour in results["behaviours"]:
        for figure, value in behaviour["headline"].items():
            key = f"{behaviour['name']}/{figure}"
            run.define_metric(key, summary=HEADLINE[figure])
            if _finite(value):
                values[key] = value
    tables = {
        "behaviours": behaviours_table(results),
        "conditions": conditions_table(results),
        "strength_curves": curves_table(results),
        "generations": generations,
    }
    charts = {f"strength/{b['name']}": strength_chart(b) for b in results["behaviours"] if b["curves"]}
    figures = {f"figure/strength/{b['name']}": wandb.Image(strength_figure(b)) for b in results["behaviours"]}
    run.log({**{name: _typed(table) for name, table in tables.items()}, **charts, **figures})
    run.summary.update(values)


# -- tables --------------------------------------------------------------------------------------


def behaviours_table(results: Mapping[str, Any]) -> Table:
    """One row a behaviour: what was chosen, the mean scores, and the main figures with their intervals."""
    chosen = ("map", "layer", "strength", "unsteered", "native", "transferred", "prompt", "items", "verdict")
    rows = [
        (
            b["name"],
            *(b[column] for column in chosen),
            *b["headline"].values(),
            *(b["ratio_ci"] or (None, None)),
            *b["transferred_change_ci"],
            *((b["dose"] or {}).get("above_untrained") or (None, None)),
            b["note"],
        )
        for b in results["behaviours"]
    ]
    intervals = (
        "transfer_ratio_low",
        "transfer_ratio_high",
        "transferred_change_low",
        "transferred_change_high",
        "above_untrained_low",
        "above_untrained_high",
    )
    return Table("behaviours", ("behaviour", *chosen, *HEADLINE, *intervals, "note"), tuple(rows))


def conditions_table(results: Mapping[str, Any]) -> Table:
    """One row a behaviour and condition: share of the native change of a null, dose ratio and damage."""
    rows = []
    for b in results["behaviours"]:
        doses = (b["dose"] or {}).get("conditions") or {}
        for name in dict.fromkeys((*b["damage"], *b["nulls"], *doses)):
            dose, damage = doses.get(name) or {}, b["damage"].get(name) or {}
            rows.append(
                (
                    b["name"],
                    condition_name(name),
                    b["nulls"].get(name),
                    dose.get("ratio"),
                    dose.get("below"),
                    dose.get("share"),
                    damage.get("relative"),
                    damage.get("kl"),
                )
            )
    measured = ("share_of_native", "dose_ratio", "dose_ratio_below", "curve_share", "damage", "kl")
    return Table("conditions", ("behaviour", "condition", *measured), tuple(rows))


def curves_table(results: Mapping[str, Any]) -> Table:
    """One row a point of a strength curve: mean score, its 95% interval, and the damage there."""
    rows = []
    for b in results["behaviours"]:
        for name, points in b["curves"].items():
            damages = {p["strength"]: p["relative"] for p in b["damage_curves"].get(name, ())}
            rows += [
                (
                    b["name"],
                    condition_name(name),
                    p["strength"],
                    p["mean"],
                    p["low"],
                    p["high"],
                    damages.get(p["strength"]),
                )
                for p in points
            ]
    columns = ("behaviour", "condition", "strength", "score", "low", "high", "damage")
    return Table("strength_curves", columns, tuple(rows))


def generations_table(studied: Sequence[Studied]) -> Table:
    """The generated texts of the first items of each behaviour, at every strength, with their scores."""
    rows = []
    for each in studied:
        study = each.study
        items = {item.id: item for item in each.behaviour.items_of(study.split)[:GENERATED_ITEMS]}
        rows += [
            (
                row.behaviour,
                row.prompt(items[row.item]),
                condition_name(row.condition),
                row.strength,
                row.text,
                row.value,
            )
            for row in study.measurements
            if row.text is not None and row.split == study.split and row.draw == 0 and row.item in items
        ]
    columns = ("behaviour", "prompt", "condition", "strength", "text", "score")
    return Table("generations", columns, tuple(rows))


def map_figures_table(cards: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a map and figure: all of its card, also along each vector (`error_along/french@3`)."""
    rows = tuple(
        (name, card["map"]["kind"], figure, value)
        for name, card in cards.items()
        for figure, value in leaves(card["metrics"], "/")
    )
    return Table("map_figures", ("map", "kind", "figure", "value"), rows)


def _typed(table: Table) -> Any:
    """W&B's table, with numbers as numbers; what is not finite is a gap."""
    rows = [[None if isinstance(c, float) and not math.isfinite(c) else c for c in row] for row in table.rows]
    return wandb.Table(columns=list(table.columns), data=rows)


# -- charts --------------------------------------------------------------------------------------


def strength_chart(behaviour: Mapping[str, Any]) -> Any:
    """Mean score over strength, a line for each condition."""
    lines = {
        CURVES[name][0] if name in CURVES else condition_name(name): [
            (p["strength"], p["mean"]) for p in points
        ]
        for name, points in behaviour["curves"].items()
    }
    return _lines(lines, f"{behaviour['name']}: score by strength", "strength")


def loss_chart(name: str, card: Mapping[str, Any]) -> Any:
    """FVU over the steps of a fit, training and validation, with the optimum as a level line."""
    training = card["training"]
    lines = {"training": training["train"], "validation": training["val"]}
    lines["reference ridge"] = [(step, training["optimum"]) for step in (0, card["steps"])]
    return _lines(lines, f"FVU of the map, {name}", "step")


def saturation_chart(evaluation: Mapping[str, Any]) -> Any:
    """A behaviour's score over the FVU of the unfinished map, beside the levels that no map changes."""
    points = [(fvu, score) for _, score, fvu in evaluation["points"]]
    ends = (min(points)[0], max(points)[0])
    lines = {"transferred": points}
    for name in ("native", "random", "unsteered"):
        lines[name] = [(end, evaluation[name]) for end in ends]
    return _lines(lines, f"{evaluation['behaviour']}: score by the map's FVU", "FVU, validation")


def _lines(lines: Mapping[str, Sequence[Sequence[float]]], title: str, xname: str) -> Any:
    drawn = {name: sorted(map(tuple, points)) for name, points in lines.items() if points}
    return wandb.plot.line_series(
        xs=[[p[0] for p in points] for points in drawn.values()],
        ys=[[p[1] for p in points] for points in drawn.values()],
        keys=list(drawn),
        title=title,
        xname=xname,
    )


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
