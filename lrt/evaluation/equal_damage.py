"""The transfer ratio where native and transferred vector do equal damage."""

from __future__ import annotations

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
    strength that reaches it counts. None where one of the two does no damage.
    """
    by_strength = {
        name: sorted((d.strength, d.relative) for d in damages if d.condition == name and d.strength > 0)
        for name in ("native", "transferred")
    }
    if not all(by_strength.values()):
        return None
    most = max(relative for _, relative in by_strength["transferred"])
    level = min(dict(by_strength["native"])[strength], most)
    if level <= 0:
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


def _at_damage(
    record: ScoreTable, condition: str, by_strength: Sequence[tuple[float, float]], level: float
) -> tuple[float, Array]:
    """Strength at which a condition first reaches a damage level, and the items' scores there."""
    s0 = d0 = 0.0
    for s1, d1 in by_strength:
        if d1 >= level:
            share = (level - d0) / (d1 - d0)
            before, after = record.column(condition, s0), record.column(condition, s1)
            assert before is not None
            assert after is not None
            return s0 + share * (s1 - s0), (1 - share) * before + share * after
        s0, d0 = s1, d1
    raise AssertionError("the level is at most the curve's maximum")
