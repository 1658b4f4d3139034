"""Generated answers graded beside their scores, and the effect that non-degenerate answers alone have."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.measuring import UNSTEERED
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.statistics import Array, mean_estimate, ratio_estimate
from lrt.evaluation.study import Study
from lrt.evaluation.text_quality import TextQuality
from lrt.evaluation.thoughts import answer_of

GRADED = ("native", "transferred", "paper_literal", "random", "shuffled", "untrained_source", "prompt")
NOTED = 0.1  # share of degenerate answers from which on the report has a note


def graded_answers(behaviour: Behaviour, study: Study, seed: int = 0) -> dict[str, Any] | None:
    """Grades by condition at the chosen strength, as plain data; None where no text is generated.

    - `conditions`: mean `words` and `distinct` (distinct-2), share `degenerate` with its interval, and
      `faults` by rule, over the first draw of each.
    - `native_change`, `transferred_change`, `ratio`: as the summary's, but a degenerate answer counts as no
      change.
    - `note`: the shares of degenerate answers that are worth a warning.
    """
    if behaviour.reads_logits:
        return None
    strength = study.choice.strength
    items = {item.id: item for item in behaviour.items_of(study.split)}
    qualities: dict[str, dict[str, TextQuality]] = defaultdict(dict)
    for row in study.measurements:
        at = 0.0 if row.condition in (UNSTEERED, "prompt") else strength
        wanted = row.condition in (UNSTEERED, *GRADED) and row.strength == at
        if row.split == study.split and row.draw == 0 and wanted and row.text is not None:
            answer = answer_of(row.text, row.prompt(items[row.item]), behaviour.thought_tags)
            if answer is not None:
                qualities[row.condition][row.item] = TextQuality.of(answer)
    record = ScoreTable(study.measurements, study.split)
    if not record.items or not qualities.get(UNSTEERED):
        return None
    order = [name for name in (UNSTEERED, *GRADED) if name in qualities]
    grades = {name: _graded(qualities[name], items, seed) for name in order}
    graded = {"conditions": grades, "note": _note(grades)}
    return graded | _changes(record, qualities, strength, behaviour.direction, study.choice.damaged, seed)


def _graded(qualities: Mapping[str, TextQuality], items: Mapping[str, Any], seed: int) -> dict[str, Any]:
    every = list(qualities.values())
    degenerate = np.array([float(each.fault is not None) for each in every])
    pairs = [each.distinct for each in every if each.distinct is not None]
    share = mean_estimate(degenerate, seed, [items[item].key for item in qualities])
    return {
        "answers": len(every),
        "words": float(np.mean([each.words for each in every])),
        "distinct": float(np.mean(pairs)) if pairs else None,
        "degenerate": share.value,
        "degenerate_ci": share.to_list(),
        "faults": dict(Counter(each.fault for each in every if each.fault is not None)),
    }


def _note(grades: Mapping[str, Mapping[str, Any]]) -> str:
    broken = {name: grades[name]["degenerate"] for name in ("native", "transferred") if name in grades}
    return "; ".join(
        f"{share:.0%} of the {name} vector's answers are degenerate"
        for name, share in broken.items()
        if share >= NOTED
    )


def _changes(
    record: ScoreTable,
    qualities: Mapping[str, Mapping[str, TextQuality]],
    strength: float,
    direction: int,
    damaged: bool,
    seed: int,
) -> dict[str, Any]:
    none = record.column(UNSTEERED, 0.0)
    assert none is not None
    keys, changes = record.item_keys, {}
    graded: dict[str, Any] = {}
    for name in ("native", "transferred"):
        column = record.column(name, strength)
        if column is None:
            return {}
        changes[name] = (column - none) * _sound(record.items, qualities[name])
        estimate = mean_estimate(changes[name], seed, keys)
        graded |= {f"{name}_change": estimate.value, f"{name}_change_ci": estimate.to_list()}
    native = mean_estimate(changes["native"], seed, keys)
    steers = native.off_zero and native.value * direction > 0 and not damaged
    ratio = ratio_estimate(changes["transferred"], changes["native"], seed, keys) if steers else None
    return graded | {
        "ratio": ratio.value if ratio else None,
        "ratio_ci": ratio.to_list() if ratio else None,
    }


def _sound(items: Sequence[str], qualities: Mapping[str, TextQuality]) -> Array:
    """1 where an item's answer is no degenerate one, else 0."""
    return np.array([float(item in qualities and qualities[item].fault is None) for item in items])
