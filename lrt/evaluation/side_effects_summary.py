"""Summary of measured side effects: by condition the value, its change against unsteered, and intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrt.evaluation.measuring import UNSTEERED, Measurement
from lrt.evaluation.side_effects import Kind, SideEffectSet
from lrt.evaluation.statistics import Array, resamples
from lrt.evaluation.text_quality import degenerate_fault
from lrt.evaluation.thoughts import answer_of


def summarise_side_effects(
    each: SideEffectSet, rows: Sequence[Measurement], seed: int = 0
) -> dict[str, Any] | None:
    """One set under all conditions, as plain data; None where no item has a score under every condition.

    - `value`: accuracy, perplexity, or share of refusals. Draws of a condition are averaged.
    - `change`: against unsteered, as a difference; of perplexity relative to it.
    - `degenerate`: share of generated answers that are degenerate (`lrt.evaluation.text_quality`).

    Intervals are 95% bootstraps over items, paired: an item is drawn under every condition.
    """
    columns = _columns(rows)
    scored = [
        index
        for index, item in enumerate(each.items)
        if all(not math.isnan(column[item.id]) for column in columns.values())
    ]
    if not scored:
        return None
    items = [each.items[index] for index in scored]
    weights = np.array([each.weights[index] for index in scored])
    drawn = resamples(len(items), seed, keys=[item.key for item in items])
    by_condition: dict[str, list[Array]] = defaultdict(list)
    for (condition, _), column in columns.items():
        values = np.array([column[item.id] for item in items])
        # a choice is right where the correct answer has the largest logit
        by_condition[condition].append((values > 0).astype(float) if each.name == "capability" else values)

    def means(condition: str) -> tuple[float, Array]:
        """Over the items, and over each bootstrap sample of them."""
        column = np.mean(by_condition[condition], axis=0)
        weighted = column * weights
        whole = float(weighted.sum() / weights.sum())
        return whole, weighted[drawn].sum(axis=1) / weights[drawn].sum(axis=1)

    none, nones = means(UNSTEERED)
    conditions: dict[str, dict[str, Any]] = {}
    for condition, draws in by_condition.items():
        mean, sampled = means(condition)
        conditions[condition] = {
            "value": _value(each.name, mean),
            "ci": _bounds(_value(each.name, sampled)),
            "draws": len(draws),
        }
        if condition != UNSTEERED:
            conditions[condition] |= {
                "change": _change(each.name, mean, none),
                "change_ci": _bounds(_change(each.name, sampled, nones)),
            }
    for condition, share in _degenerate(each, rows).items():
        conditions[condition]["degenerate"] = share
    return {
        "origin": each.origin,
        "items": len(items),
        "unscored": len(each.items) - len(items),
        "conditions": conditions,
    }


def _columns(rows: Sequence[Measurement]) -> Mapping[tuple[str, int], dict[str, float]]:
    columns: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for row in rows:
        columns[row.condition, row.draw][row.item] = row.value
    return columns


def _value(kind: Kind, mean: Any) -> Any:
    return np.exp(mean) if kind == "perplexity" else mean


def _change(kind: Kind, mean: Any, unsteered: Any) -> Any:
    return np.expm1(mean - unsteered) if kind == "perplexity" else mean - unsteered


def _bounds(samples: Array) -> list[float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return [float(low), float(high)]


def _degenerate(each: SideEffectSet, rows: Sequence[Measurement]) -> dict[str, float]:
    """Share of degenerate answers by condition, of those that are no unfinished thoughts."""
    prompts = {item.id: item.prompt for item in each.items}
    faults: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if row.text is not None:
            answer = answer_of(row.text, prompts[row.item], each.thought_tags)
            if answer is not None:
                faults[row.condition].append(degenerate_fault(answer) is not None)
    return {condition: sum(found) / len(found) for condition, found in faults.items()}
