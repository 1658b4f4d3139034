"""The transfer ratio where native and transferred vector do equal damage."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from lrt.evaluation.measuring import Damage
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.statistics import Array, ratio_estimate


def at_matched_damage(
    record: ScoreTable, damages: Sequence[Damage], strength: float, seed: int
) -> dict[str, Any] | None:
    """Transfer ratio at matched damage.

    The damage is that of the native vector at the chosen strength or, if smaller, the most that the
    transferred vector does. Strengths are interpolated linearly; where damage is not monotonic, the first
    strength that reaches it counts. None where one of the two does no damage, and where both break the model.
    """
    by_strength = {
        name: sorted((d.strength, d.relative) for d in damages if d.condition == name and d.strength > 0)
        for name in ("native", "transferred")
    }
    if not all(by_strength.values()):
        return None
    most = max(relative for _, relative in by_strength["transferred"])
    level = min(dict(by_strength["native"])[strength], most)
    if not 0 < level < math.inf:
        return None
    (at, native), (ours_at, ours) = (
        _at_damage(record, name, by_strength[name], level) for name in by_strength
    )
    none = record.column("none", 0.0)
    assert none is not None
    ratio = ratio_estimate(ours - none, native - none, seed, record.item_keys)
    return {
        "damage": level,
        "strength": ours_at,
        "native_strength": at,
        "transferred": float(ours.mean()),
        "native": float(native.mean()),
        "ratio": ratio.value if ratio else None,
        "ratio_ci": ratio.to_list() if ratio else None,
    }


def strength_at_damage(curve: Sequence[tuple[float, float]], level: float) -> float:
    """The strength at which a curve of (strength, damage) first reaches a level, between its points linearly.

    The curve starts at no strength and no damage. One that never reaches the level gives its last strength.
    """
    before, less = 0.0, 0.0
    for strength, damage in sorted(curve):
        if damage >= level:
            share = (level - less) / (damage - less) if damage > less else 0.0
            return before + share * (strength - before)
        before, less = strength, damage
    return before


def _at_damage(
    record: ScoreTable, condition: str, by_strength: Sequence[tuple[float, float]], level: float
) -> tuple[float, Array]:
    """Strength at which a condition first reaches a damage level, and the items' scores there."""
    at = strength_at_damage(by_strength, level)
    grid = [0.0, *(strength for strength, _ in by_strength)]
    scores = record.curve(condition, grid)
    assert scores is not None
    after = max(1, bisect_left(grid, at))
    share = (at - grid[after - 1]) / (grid[after] - grid[after - 1])
    return at, (1 - share) * scores[after - 1] + share * scores[after]
