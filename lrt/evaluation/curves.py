"""Curves of score and of damage over strength, as plain data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from lrt.evaluation.choice import StrengthGrid
from lrt.evaluation.measuring import Damage
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.statistics import mean_estimate


def curves(
    record: ScoreTable,
    conditions: Sequence[str],
    grid: StrengthGrid,
    seed: int,
    draws: Mapping[str, int] | None = None,
) -> dict[str, list[dict[str, float]]]:
    """Means over items with intervals, by condition and strength.

    draws  The draw of a condition that is shown, where it is not the first.

    Conditions without a curve are skipped: those that lack a strength between two others.
    """
    by_condition, draws = {}, draws or {}
    for name in conditions:
        points, places = [], []
        for place, strength in enumerate(grid.strengths):
            column = record.column(name, strength, draws.get(name, 0))
            if column is not None:
                at = mean_estimate(column, seed, record.item_keys)
                points.append({"strength": strength, "mean": at.value, "low": at.low, "high": at.high})
                places.append(place)
        if len(points) > 1 and places[-1] - places[0] == len(places) - 1:
            by_condition[name] = points
    return by_condition


def damage_curves(
    damages: Sequence[Damage], draws: Mapping[str, int] | None = None
) -> dict[str, list[dict[str, float]]]:
    """Damage by condition and strength, of the draws that `curves` shows; conditions with one strength are
    skipped.

    `rise` and `kl` are in nats per token, `relative` is the rise relative to the unsteered cross-entropy.
    """
    draws = draws or {}
    curves: dict[str, list[dict[str, float]]] = defaultdict(list)
    for d in sorted(damages, key=lambda d: d.strength):
        if d.draw == draws.get(d.condition, 0):
            curves[d.condition].append(
                {"strength": d.strength, "relative": d.relative, "kl": d.kl, "rise": d.rise}
            )
    return {name: points for name, points in curves.items() if len(points) > 1}
