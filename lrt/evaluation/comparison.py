"""Transferred vector and nulls compared by dose, and whether the behaviour counts as transferred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from lrt.evaluation.directions import NULLS
from lrt.evaluation.dose import EffectCurve, NativeDose
from lrt.evaluation.measuring import Damage
from lrt.evaluation.score_table import ScoreTable

UNTRAINED = "untrained_source"
COMPARED_BY_DOSE = ("transferred", UNTRAINED, *(name for name in NULLS if name != UNTRAINED))

Verdict = Literal[
    "transferred",
    "not above an untrained source",
    "not compared with an untrained source",
    "native does not steer",
    "no effect of its own",
]


def compare_doses(
    record: ScoreTable,
    damages: Sequence[Damage],
    strengths: Sequence[float],
    direction: int,
    limit: float,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Dose ratio and curve share of the transferred vector and of every null with a curve, as plain data.

    damages    Of the split that is evaluated.
    strengths  The positive strengths that are compared.
    limit      Damage at which each curve ends.

    `above_untrained` is the 95% interval of the transferred vector's dose ratio minus the untrained source's.
    None where the native vector does not steer at these strengths, or there are none, and for one item, which
    has no interval.
    """
    grid = (0.0, *strengths)
    if not strengths or len(record.items) < 2:
        return None
    natural = _curve(record, "native", damages, grid, direction, limit)
    if natural is None:
        return None
    native = NativeDose.of(natural, grid[-1], seed, record.item_keys)
    if native is None:
        return None
    curves = {
        name: curve
        for name in COMPARED_BY_DOSE
        if (curve := _curve(record, name, damages, grid, direction, limit)) is not None
    }
    conditions = {}
    for name, curve in curves.items():
        dose, share = native.ratio(curve), native.share(curve)
        conditions[name] = {
            "ratio": dose.value,
            "below": dose.below,
            "ci": [dose.low, dose.high],
            "share": share.value if share else None,
            "share_ci": share.to_list() if share else None,
        }
    above = None
    if "transferred" in curves and UNTRAINED in curves:
        above = list(native.difference(curves["transferred"], curves[UNTRAINED]))
    return {
        "effect": float(native.level[0]),
        "native_strength": float(native.dose[0]),
        "largest_strength": grid[-1],
        "conditions": conditions,
        "above_untrained": above,
    }


def _curve(
    record: ScoreTable,
    condition: str,
    damages: Sequence[Damage],
    grid: Sequence[float],
    direction: int,
    limit: float,
) -> EffectCurve | None:
    """Over the draws that have every strength their mean; None where there is none. Damage is of the first
    draw; where it was not measured at every strength the whole curve is read."""
    draws = [c for d in record.draw_numbers(condition) if (c := record.curve(condition, grid, d)) is not None]
    if not draws:
        return None
    relative = {d.strength: d.relative for d in damages if d.condition == condition and d.draw == 0}
    measured = all(s in relative for s in grid[1:])
    along = [0.0, *(relative[s] for s in grid[1:])] if measured else None
    return EffectCurve.of(np.mean(draws, axis=0), grid, direction, along, limit)


def verdict(compared: dict[str, Any] | None, moves: bool, voided: bool) -> Verdict:
    """Whether a behaviour counts as transferred, in words.

    It does where the whole interval of the transferred vector's dose ratio minus the untrained source's is
    above zero.

    moves   Whether the native vector steers.
    voided  Whether a null without any trace of a behaviour has the native effect too.
    """
    if not moves:
        return "native does not steer"
    if voided:
        return "no effect of its own"
    above = compared["above_untrained"] if compared else None
    if above is None:
        return "not compared with an untrained source"
    return "transferred" if above[0] > 0 else "not above an untrained source"
