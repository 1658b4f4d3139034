"""From raw rows to what is claimed: one plain record a behaviour, made from the rows alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.columns import Record
from lrt.evaluation.directions import NULLS, RESAMPLED
from lrt.evaluation.measuring import Damage
from lrt.evaluation.propensity import propensity
from lrt.evaluation.scorers import Answer, Choice
from lrt.evaluation.statistics import (
    Array,
    mean_estimate,
    null_share,
    ratio_estimate,
    ratio_over_refits,
)
from lrt.evaluation.study import StrengthGrid, Study

DRAWN = ("native", "transferred", "paper_literal", "random", "source")
PROBABILITY = ("native", "transferred", "paper_literal", "random", "shuffled", "source")


def summarise(behaviour: Behaviour, study: Study, grid: StrengthGrid, seed: int = 0) -> dict[str, Any]:
    """What the report says of one behaviour.

    Changes are of the mean score over the study's items, at the chosen strength, against the
    unsteered model. `ratio` is the transferred change over the native one, `ratio_ci` its paired
    bootstrap over items, `ratio_ci_map` the interval around it when the map's documents and the
    contrastive prompts are drawn anew too. `nulls` are shares of the native change, the mean over
    draws. Where the native change's own interval holds zero, or no strength was undamaged, there is
    no ratio, and `note` says so.
    """
    record = Record(study.measurements, study.split)
    strength = study.choice.strength
    none = record.column("none", 0.0)
    native = record.column("native", strength)
    transferred = record.column("transferred", strength)
    assert none is not None
    assert native is not None
    assert transferred is not None
    change, native_change = transferred - none, native - none
    keys = record.item_keys
    moved = mean_estimate(native_change, seed, keys)
    intended = moved.off_zero and moved.value * behaviour.direction > 0 and not study.choice.damaged
    ratio = ratio_estimate(change, native_change, seed, keys) if intended else None
    damages = [d for d in study.damages if d.split == study.split]
    harm = _harm(damages, strength)
    notes = []
    if not intended:
        notes.append("native does not steer")
    if study.choice.damaged:
        notes.append("no strength keeps the native vector within the damage limit")
    if harm.get("transferred", {}).get("relative", 0.0) > grid.damage_limit:
        notes.append("transferred vector over the damage limit")
    literal = record.column("paper_literal", strength)
    whole = record.column("whole_corpus", strength)
    by_whole = None
    if intended and whole is not None:
        by_whole = ratio_estimate(whole - none, native_change, seed, keys)
    nulls = {
        name: null_share(np.array([(row - none).mean() for row in rows]), moved.value)
        for name in NULLS
        if (rows := record.draws(name, strength))
    }
    summary: dict[str, Any] = {
        "name": behaviour.name,
        "contrast": behaviour.contrast,
        "metric": behaviour.metric,
        "kind": "choice" if behaviour.is_choice else "logits" if behaviour.reads_logits else "text",
        "direction": behaviour.direction,
        "operation": behaviour.operation,
        "items": len(record.items),
        "layer": study.choice.layer,
        "layers_tried": [
            {"layer": layer, "native_change": change, "steers": steers}
            for layer, change, steers in study.choice.by_layer
        ],
        "strength": strength,
        "strengths_tried": study.choice.tried,
        "unsteered": float(none.mean()),
        "native": float(native.mean()),
        "transferred": float(transferred.mean()),
        "paper_literal": None if literal is None else float(literal.mean()),
        "whole_corpus": None if whole is None else float(whole.mean()),
        "whole_corpus_ratio": by_whole.value if by_whole else None,
        "whole_corpus_ratio_ci": by_whole.to_list() if by_whole else None,
        "native_change_ci": moved.to_list(),
        "steers": intended,
        "ratio": ratio.value if ratio else None,
        "ratio_ci": ratio.to_list() if ratio else None,
        "ratio_ci_map": _map_interval(record, none, change, native_change, strength, seed) if ratio else None,
        "nulls": {name: share["mean"] for name, share in nulls.items()} if intended else {},
        "null_details": nulls if intended else {},
        "damage": harm,
        "matched_damage": _at_matched_damage(record, damages, strength) if intended else None,
        "curves": curves(record, DRAWN, grid, seed),
        "damage_curves": _damage_curves(damages),
        "note": "; ".join(notes),
    }
    for name, at in (("source", strength), ("prompt", 0.0)):
        column = record.column(name, at)
        summary[name] = None if column is None else float(column.mean())
    probabilities = Record(study.measurements, study.split, "probability")
    summary["probability"] = {
        name: float(column.mean())
        for name, at in (*((name, strength) for name in PROBABILITY), ("none", 0.0), ("prompt", 0.0))
        if (column := probabilities.column(name, at)) is not None
    }
    base = record.column("source", 0.0)
    summary["source_unsteered"] = None if base is None else float(base.mean())
    if isinstance(behaviour.scorer, Choice | Answer):
        summary["propensity"] = propensity(
            record, probabilities, grid.strengths, behaviour.direction, strength, seed
        )
    if not behaviour.reads_logits:
        summary["examples"] = _examples(behaviour, study, strength)
    return summary


def _harm(damages: Sequence[Damage], strength: float) -> dict[str, dict[str, float]]:
    return {
        d.condition: {"rise": d.rise, "relative": d.relative, "kl": d.kl}
        for d in damages
        if d.strength == strength and d.draw == 0
    }


def _map_interval(
    record: Record, none: Array, change: Array, native: Array, strength: float, seed: int
) -> list[float] | None:
    """Over items, and over draws of the map's documents together with the contrastive prompts, which both
    vectors of a draw share."""
    ours, natives = (np.array(record.draws(name, strength)) for name in RESAMPLED)
    if not len(ours):
        return None
    found = ratio_over_refits(change, native, (ours - none, natives - none), seed, record.item_keys)
    return found.to_list() if found else None


def _at_matched_damage(record: Record, damages: Sequence[Damage], strength: float) -> dict[str, float] | None:
    """Transferred over native change where both do the same damage, by linear interpolation.

    None where the transferred vector never does as much within the grid.
    """
    harm = {
        name: [(d.strength, d.relative) for d in damages if d.condition == name and d.strength > 0]
        for name in ("native", "transferred")
    }
    native_harm = dict(harm["native"]).get(strength)
    if native_harm is None or not harm["transferred"]:
        return None
    none = record.column("none", 0.0)
    native = record.column("native", strength)
    assert none is not None
    assert native is not None
    steps = [(0.0, 0.0), *sorted(harm["transferred"])]
    for (s0, d0), (s1, d1) in pairwise(steps):
        if d0 <= native_harm <= d1 and d1 > d0:
            share = (native_harm - d0) / (d1 - d0)
            before, after = record.column("transferred", s0), record.column("transferred", s1)
            assert before is not None
            assert after is not None
            mean = float((1 - share) * before.mean() + share * after.mean())
            below = float(native.mean() - none.mean())
            return {
                "damage": native_harm,
                "strength": s0 + share * (s1 - s0),
                "transferred": mean,
                "ratio": (mean - float(none.mean())) / below if below else float("nan"),
            }
    return None


def curves(
    record: Record, conditions: Sequence[str], grid: StrengthGrid, seed: int
) -> dict[str, list[dict[str, float]]]:
    """Means over items with their intervals, by condition and strength; conditions without a curve are left
    out."""
    found = {}
    for name in conditions:
        points = []
        for strength in grid.strengths:
            column = record.column(name, strength)
            if column is not None:
                at = mean_estimate(column, seed, record.item_keys)
                points.append({"strength": strength, "mean": at.value, "low": at.low, "high": at.high})
        if len(points) > 1:
            found[name] = points
    return found


def _damage_curves(damages: Sequence[Damage]) -> dict[str, list[dict[str, float]]]:
    curves: dict[str, list[dict[str, float]]] = defaultdict(list)
    for d in sorted(damages, key=lambda d: d.strength):
        if d.draw == 0:
            curves[d.condition].append(
                {"strength": d.strength, "relative": d.relative, "kl": d.kl, "rise": d.rise}
            )
    return {name: points for name, points in curves.items() if len(points) > 1}


def _examples(behaviour: Behaviour, study: Study, strength: float, count: int = 3) -> list[Any]:
    """A few items side by side: what was asked, and what each condition wrote."""
    texts: dict[tuple[str, str, float], str] = {
        (row.item, row.condition, row.strength): row.text or ""
        for row in study.measurements
        if row.split == study.split and row.draw == 0
    }
    strengths = sorted({s for _, c, s in texts if c == "transferred" and s > 0})
    shown = [s for s in strengths if s <= strength][-2:] + [s for s in strengths if s > strength][:1]
    return [
        {
            "prompt": item.prompt,
            "texts": [
                {"condition": c, "strength": s, "text": texts[item.id, c, s]}
                for c, s in [
                    ("none", 0.0),
                    *((c, s) for s in shown for c in ("native", "transferred")),
                    ("shuffled", strength),
                ]
                if (item.id, c, s) in texts
            ],
        }
        for item in behaviour.items_of(study.split)[:count]
    ]
