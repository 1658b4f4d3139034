"""Summary of a study: changes, transfer ratio, nulls, damage and curves of one behaviour, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.choice import StrengthGrid
from lrt.evaluation.comparison import compare_doses, verdict
from lrt.evaluation.curves import curves, damage_curves
from lrt.evaluation.directions import NULLS, RESAMPLED, UNTRAINED
from lrt.evaluation.equal_damage import at_matched_damage
from lrt.evaluation.measuring import UNSTEERED, Damage
from lrt.evaluation.propensity import propensity
from lrt.evaluation.score_table import ScoreMissing, ScoreTable
from lrt.evaluation.statistics import (
    Array,
    mean_estimate,
    null_share,
    ratio_estimate,
    ratio_over_refits,
    refit_ratios,
)
from lrt.evaluation.study import Study
from lrt.evaluation.thoughts import answer_of

STRICT_NULLS = ("random", "shuffled", "bias")  # nulls that hold no trace of any behaviour
VOID_SHARE = 0.5  # share of the native change from which on a strict null voids the effect
BALANCE_LIMIT = 1.25  # most frequent answer key over the least frequent
CURVES = ("native", "transferred", "paper_literal", "random", UNTRAINED, "source")
SHOWN_NULLS = ("random", UNTRAINED)  # whose generated texts are shown at every strength
PROBABILITY = ("native", "transferred", "paper_literal", "random", "shuffled", "source")

HEADLINE: dict[str, Literal["max", "min"]] = {
    "transferred_effect": "max",
    "native_effect": "max",
    "transfer_ratio": "max",
    "dose_ratio": "max",
    "strongest_null": "min",
    "damage": "min",
}
"""The plain names of a behaviour's main figures, the same on the console, in the report and in W&B, and
whether the largest or the smallest is best. `headline` computes them."""


def headline(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The main figures of one behaviour's summary, at the chosen strength; None where one is undefined.

    - `transferred_effect`, `native_effect`: change of the mean score in the intended direction.
    - `transfer_ratio`: the first over the second.
    - `dose_ratio`: of the transferred vector.
    - `strongest_null`: the largest share of the native change that a null has.
    - `damage`: relative rise of cross-entropy under the transferred vector.
    """
    sign, unsteered = summary["direction"], summary["unsteered"]
    dose = ((summary["dose"] or {}).get("conditions") or {}).get("transferred") or {}
    shares = [share for share in summary["nulls"].values() if share is not None]
    figures = {
        "transferred_effect": sign * (summary["transferred"] - unsteered),
        "native_effect": sign * (summary["native"] - unsteered),
        "transfer_ratio": summary["ratio"],
        "dose_ratio": dose.get("ratio"),
        "strongest_null": max(shares, default=None),
        "damage": summary["damage"].get("transferred", {}).get("relative"),
    }
    return {name: figures[name] for name in HEADLINE}


def summarise(behaviour: Behaviour, study: Study, grid: StrengthGrid, seed: int = 0) -> dict[str, Any]:
    """Summarise one behaviour for the report.

    A change is that of the mean score at the chosen strength, against the unsteered model.

    - `ratio`: the transfer ratio, transferred change / native change. `ratio_ci`: its paired bootstrap over
      items. `ratio_ci_map`: its interval when the map's documents and the contrastive prompts are resampled
      too.
    - `headline`: the main figures by their plain names (`HEADLINE`).
    - `nulls`: each null's change as a share of the native change, averaged over draws.
    - `note`: why there is no ratio, and other warnings.

    There is no ratio where the native change's interval contains zero, where every strength exceeds the
    damage limit, or where one of `STRICT_NULLS`, undamaged, has half of the native change or more.

    Raises ScoreMissing where no item has a score under every condition.
    """
    record = ScoreTable(study.measurements, study.split)
    if not record.items:
        raise ScoreMissing(behaviour.name, study.split)
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
    moves = moved.off_zero and moved.value * behaviour.direction > 0 and not study.choice.damaged
    nulls = {
        name: null_share(np.array([(row - none).mean() for row in rows]), moved.value)
        for name in NULLS
        if (rows := record.draws(name, strength))
    }
    damages = [d for d in study.damages if d.split == study.split]
    damage = _damage_at(damages, strength)
    # a null that moves the score by damaging the model says nothing about the native effect
    mild_nulls = [name for name in nulls if damage.get(name, {}).get("relative", 0.0) <= grid.damage_limit]
    voiding_nulls = [
        name for name in STRICT_NULLS if moves and name in mild_nulls and nulls[name]["mean"] >= VOID_SHARE
    ]
    intended = moves and not voiding_nulls
    ratio = ratio_estimate(change, native_change, seed, keys) if intended else None
    refits = _refits(record, none, strength) if ratio else None
    over_refits = ratio_over_refits(change, native_change, refits, seed, keys) if refits else None
    compared = None
    if moves:
        limiting = [d for d in study.damages if d.condition == "native"]
        on_development = [d for d in limiting if d.split == "development"]
        undamaged = grid.undamaged(on_development or limiting)
        compared = compare_doses(
            record, damages, undamaged, behaviour.direction, grid.damage_limit, seed, refits
        )
    # the untrained source that the verdict stands on is the one that is drawn
    shown = {UNTRAINED: compared["strongest_untrained"] or 0} if compared else {}
    notes = []
    if not moves:
        notes.append("native does not steer")
    for name in voiding_nulls:
        notes.append(
            f"no effect of its own: the {name} null has {nulls[name]['mean']:.0%} of the native change"
        )
    if study.choice.damaged:
        notes.append("no strength keeps the native vector within the damage limit")
    for name in ("native", "transferred"):
        over = damage.get(name, {}).get("relative", 0.0) > grid.damage_limit
        if over and not (name == "native" and study.choice.damaged):  # noted above
            notes.append(f"{name} vector over the damage limit on {study.split} texts")
    counts = Counter(keys)
    if max(counts.values()) > BALANCE_LIMIT * min(counts.values()):
        by_key = ", ".join(f"{count} {key}" for key, count in sorted(counts.items()))
        notes.append(
            f"items unbalanced over answer keys ({by_key}): a shift of one answer counts as an effect"
        )
    if record.unscored:
        notes.append(f"{record.unscored} items excluded: no score under some condition")
    if unfinished := _unfinished_thoughts(behaviour, study):
        notes.append(f"{unfinished} texts end within a thought and have no score")
    literal = record.column("paper_literal", strength)
    whole = record.column("whole_corpus", strength)
    by_whole = None
    if intended and whole is not None:
        by_whole = ratio_estimate(whole - none, native_change, seed, keys)
    summary: dict[str, Any] = {
        "name": behaviour.name,
        "contrast": behaviour.contrast,
        "metric": behaviour.metric,
        "kind": "choice" if behaviour.is_choice else "logits" if behaviour.reads_logits else "text",
        "direction": behaviour.direction,
        "operation": behaviour.operation,
        "strength_unit": "share" if behaviour.operation == "ablate" else grid.unit,
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
        "transferred_change_ci": mean_estimate(change, seed, keys).to_list(),
        "steers": intended,
        "ratio": ratio.value if ratio else None,
        "ratio_ci": ratio.to_list() if ratio else None,
        "ratio_ci_map": over_refits.to_list() if over_refits else None,
        "ratio_refits": refit_ratios(refits).tolist() if refits else None,
        "dose": compared,
        "verdict": verdict(compared, moves, bool(voiding_nulls)),
        "nulls": {name: share["mean"] for name, share in nulls.items()} if moves else {},
        "null_details": nulls if moves else {},
        "voiding_nulls": voiding_nulls,
        "damage": damage,
        "matched_damage": at_matched_damage(record, damages, strength, seed) if intended else None,
        "curves": curves(record, CURVES, grid, seed, shown),
        "damage_curves": damage_curves(damages, shown),
        "note": "; ".join(notes),
    }
    for name, at in (("source", strength), ("prompt", 0.0)):
        column = record.column(name, at)
        summary[name] = None if column is None else float(column.mean())
    probabilities = ScoreTable(study.measurements, study.split, "probability")
    summary["probability"] = {
        name: float(column.mean())
        for name, at in (*((name, strength) for name in PROBABILITY), ("none", 0.0), ("prompt", 0.0))
        if (column := probabilities.column(name, at)) is not None
    }
    prompt = record.column("prompt", 0.0)
    by_prompt = None
    if intended and prompt is not None:
        by_prompt = ratio_estimate(prompt - none, native_change, seed, keys)
    summary["prompt_ratio"] = by_prompt.value if by_prompt else None
    summary["prompt_ratio_ci"] = by_prompt.to_list() if by_prompt else None
    base = record.column("source", 0.0)
    summary["source_unsteered"] = None if base is None else float(base.mean())
    if behaviour.has_answers:
        mild = {d.strength for d in damages if d.condition == "native" and d.relative <= grid.damage_limit}
        summary["propensity"] = propensity(
            record, probabilities, grid.strengths, behaviour.direction, strength, mild, seed
        )
    if not behaviour.reads_logits:
        summary["examples"] = _examples(behaviour, study, strength)
    return summary | {"headline": headline(summary)}


def _damage_at(damages: Sequence[Damage], strength: float) -> dict[str, dict[str, float]]:
    return {
        d.condition: {"rise": d.rise, "relative": d.relative, "kl": d.kl}
        for d in damages
        if d.strength == strength and d.draw == 0
    }


def _refits(record: ScoreTable, none: Array, strength: float) -> tuple[Array, Array] | None:
    """Transferred and native changes `[draws, items]` with the map's documents and the prompts resampled.

    Both vectors of a draw come from the same prompts.
    """
    transferred, native = (np.array(record.draws(name, strength)) for name in RESAMPLED)
    return (transferred - none, native - none) if len(transferred) else None


def _unfinished_thoughts(behaviour: Behaviour, study: Study) -> int:
    """The number of generated texts without an answer."""
    items = {item.id: item for item in behaviour.items_of(study.split)}
    rows = [row for row in study.measurements if row.split == study.split and row.text is not None]
    return sum(
        answer_of(row.text or "", row.prompt(items[row.item]), behaviour.thought_tags) is None for row in rows
    )


def _examples(behaviour: Behaviour, study: Study, strength: float, count: int = 3) -> list[Any]:
    """Prompts of a few items, and the generated text and its score under each condition and strength.

    Of the nulls, `SHOWN_NULLS` at every strength they were measured at and shuffled pairs at the chosen one.
    """
    rows = {
        (row.item, row.condition, row.strength): row
        for row in study.measurements
        if row.split == study.split and row.draw == 0
    }
    strengths = sorted({s for _, condition, s in rows if condition == "transferred"})
    shown = [
        (UNSTEERED, 0.0),
        ("prompt", 0.0),
        *((condition, s) for s in strengths for condition in ("native", "transferred", *SHOWN_NULLS)),
        ("shuffled", strength),
    ]
    return [
        {
            "prompt": item.prompt,
            "texts": [
                {
                    "condition": condition,
                    "strength": s,
                    "text": row.text or "",
                    "score": None if math.isnan(row.value) else row.value,
                }
                for condition, s in shown
                if (row := rows.get((item.id, condition, s)))
            ],
        }
        for item in behaviour.items_of(study.split)[:count]
    ]
