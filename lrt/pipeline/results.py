"""Stage 7: everything that the report says, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrt.evaluation import Behaviour, summarise
from lrt.evaluation.graded_answers import graded_answers
from lrt.evaluation.null_causes import null_causes, strong_nulls
from lrt.lab.shipped import family_card, folder_of, shipped
from lrt.models import LanguageModel
from lrt.models.sides import SIDES, Side
from lrt.pipeline.analyses import Analyses
from lrt.pipeline.evaluation import Studied, Studies, contamination_of
from lrt.pipeline.layers import LayerPlan
from lrt.pipeline.maps import Maps
from lrt.pipeline.next_steps import next_steps
from lrt.pipeline.pair import ModelPair
from lrt.pipeline.provenance import provenance
from lrt.report import layer_label


def results(
    pair: ModelPair,
    plan: LayerPlan,
    maps: Maps,
    cards: Mapping[str, Mapping[str, Any]],
    studies: Studies,
    studied: Sequence[Studied],
    analyses: Analyses,
    config: str,
    side_effects: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`report/results.json`: summaries of the measurements, the maps' cards, the analyses, and provenance.

    config        The composed config as YAML.
    side_effects  By behaviour, where they were measured.
    """
    card = cards[maps.whole.name]
    effects = side_effects or {}
    behaviours = [
        _behaviour(each, studies, maps, cards, analyses) | {"side_effects": effects.get(each.behaviour.name)}
        for each in studied
    ]
    more = analyses.results()
    return {
        "pair": {"name": pair.name, **{side: describe_side(pair, side) for side in SIDES}},
        "layers": {side: layers_read(card, side) for side in SIDES},
        "pool": card["corpus"]["pool"],
        "map": map_facts(card),
        "maps": [
            {
                "name": fit.name,
                "fitted_for": [b.name for b in maps.whole.behaviours if maps.of(b) is fit],
                **map_facts(cards[fit.name]),
                "training": cards[fit.name]["training"],
            }
            for fit in maps.all
        ],
        "split": studies.settings.eval_split,
        "behaviours": behaviours,
        **more,
        "models": _model_cards(pair),
        "training": card["training"],
        "configurations_tried": {
            "target layers": len(plan.candidates.target.layers),
            "source layers": len(plan.candidates.source.layers) if plan.automatic else 1,
            "strengths": max(b["strengths_tried"] for b in behaviours),
            "behaviours": len(behaviours),
        },
        "seconds": _seconds(card["seconds"], studies.monitor.seconds),
        "provenance": {
            **provenance(),
            "fingerprints": {
                "store": card["store"],
                "map": maps.whole.fingerprint,
                **{f"map/{fit.name}": fit.fingerprint for fit in maps.of_parts},
                "measurements": studies.fingerprint,
            },
            "config": config,
        },
    }


def _behaviour(
    each: Studied,
    studies: Studies,
    maps: Maps,
    cards: Mapping[str, Mapping[str, Any]],
    analyses: Analyses,
) -> dict[str, Any]:
    behaviour: Behaviour = each.behaviour
    summary = summarise(behaviour, each.study, studies.settings.grid.of(behaviour), studies.seed)
    answers = graded_answers(behaviour, each.study, studies.seed)
    notes = (contamination_of(each.fit, behaviour), summary["note"], (answers or {}).get("note"))
    return {
        **summary,
        "note": "; ".join(filter(None, notes)),
        "next_steps": next_steps(each, summary, studies, cards[each.fit.name]),
        "map": each.fit.name,
        "documents_seen": each.fit.documents_seen[behaviour.name],
        "rescored": studies.rescored(behaviour, each.study),
        "null_causes": _null_causes(each, summary, studies),
        "answers": answers,
        "forecast": each.forecast,
        "given_away": analyses.given_away.of(each.fit, behaviour, each.study.choice.layer),
        "whole_corpus_forecast": None
        if each.fit is maps.whole
        else analyses.forecasts.of(maps.whole, behaviour, each.study.choice.layer),
    }


def _null_causes(each: Studied, summary: Mapping[str, Any], studies: Studies) -> dict[str, Any]:
    """Why each null steers that has more than a small share of the native change."""
    behaviour, strong = each.behaviour, strong_nulls(summary)
    if not strong:
        return {}
    grid = studies.settings.grid.of(behaviour)
    cosines = studies.native_cosines(behaviour)
    causes = null_causes(behaviour, each.study, grid, strong, cosines, studies.seed)
    other = studies.other_of(behaviour)
    if "other" in causes and other:
        causes["other"] |= {
            "behaviour": other,
            "cosine_of_natives": studies.cosine_of_natives(behaviour, other),
        }
    return causes


def _named(pair: ModelPair, side: Side) -> dict[str, Any]:
    """Which checkpoint of the hub a model is (None for a local one), and its dtype."""
    described = pair.described()[side]
    return {name: described[name] for name in ("path", "revision", "dtype")}


def _seconds(fitted: Mapping[str, float], took: Mapping[str, float]) -> dict[str, float]:
    """Seconds by stage; a stage that was reused counts what making it took."""
    seconds = {name: max(s, took.get(name, 0.0)) for name, s in fitted.items()}
    return seconds | {name: s for name, s in took.items() if name not in seconds}


def map_facts(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of one map."""
    names = ("rows_excluded", "rows_excluded_by", "fingerprint")
    solved = card["solved"] or {}
    excluded = (card.get("excluded") or {}).get("documents", {})
    return {
        "kind": card["map"]["kind"],
        "note": solved.get("note"),
        **card["metrics"],
        "rows": card["rows"]["train"],
        **{name: card[name] for name in names},
        "documents_excluded": {name: len(ids) for name, ids in excluded.items()},
        **({"aligned": card["corpus"]["aligned"]["train"]} if "aligned" in card["corpus"] else {}),
    }


def describe(model: LanguageModel) -> dict[str, Any]:
    """Name, depth in decoder blocks, width and parameter count of a model."""
    return {
        "name": model.spec.name,
        "depth": model.depth,
        "width": model.width,
        "parameters": sum(p.numel() for p in model.model.parameters()),
    }


def describe_side(pair: ModelPair, side: Side) -> dict[str, Any]:
    """The same of a side of a pair; of several source models together, without a depth."""
    members = [describe(model) for model in pair.members(side)]
    if len(members) == 1:
        return {**members[0], **_named(pair, side)}
    parameters = sum(member["parameters"] for member in members)
    return {"name": pair.names[side], "width": pair.models[side].width, "parameters": parameters}


def layers_read(card: Mapping[str, Any], side: Side) -> list[Any]:
    """A map's layers of a side by its card; of several source models each with the model's name."""
    layers: list[Any] = card["layers"][side]
    if side == "target" or not card.get("beside"):
        return layers
    each = ({**card["models"]["source"], "layers": layers}, *card["beside"])
    return [f"{model['name']} {layer}" for model in each for layer in model["layers"]]


def _model_cards(pair: ModelPair) -> list[dict[str, Any]]:
    """The cards of the pair, and of the rest of the family where both are of it."""
    cards: list[dict[str, Any]] = []
    models = [model for side in SIDES for model in pair.members(side)]
    folders = [Path(model.spec.path) for model in models]
    for model, folder in zip(models, folders, strict=True):
        note = "not of the storybook family: no checks are known for it"
        cards.append(family_card(folder) or {**describe(model), "checks": [], "note": note})
    if all(folder in map(folder_of, shipped()) for folder in folders):
        names = {card["name"] for card in cards}
        rest = (family_card(folder_of(name)) for name in shipped() if name not in names)
        cards += [card for card in rest if card]
    return cards


def outcome(
    pair: ModelPair,
    card: Mapping[str, Any],
    seconds: Mapping[str, float],
    results: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A job's row in a sweep: its map and, where it was evaluated, its transfer ratios."""
    row = {
        **pair.names,
        **{f"{side}_layer": layer_label(layers_read(card, side)) for side in SIDES},
        **{name: card["metrics"][name] for name in ("fvu", "r2", "excess_over_optimum")},
        "seconds": sum(seconds.values()),
    }
    if results is None:
        return row
    ratios = {b["name"]: b["ratio"] for b in results["behaviours"]}
    known = [ratio for ratio in ratios.values() if ratio is not None]
    mean = sum(known) / len(known) if known else None
    return row | {"split": results["split"], "ratios": ratios, "mean_ratio": mean}
