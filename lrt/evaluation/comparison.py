"""Transferred vector and nulls compared by dose, and whether the behaviour counts as transferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lrt.evaluation.directions import NULLS, UNTRAINED
from lrt.evaluation.dose import EffectCurve, NativeDose
from lrt.evaluation.measuring import Damage
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.statistics import Array, refit_deviations

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
    refits: tuple[Array, Array] | None = None,
) -> dict[str, Any] | None:
    """Dose ratio and curve share of the transferred vector and of every null with a curve, as plain data.

    damages    Of the split that is evaluated.
    strengths  The positive strengths that are compared.
    limit      Damage at which each curve ends.
    refits     Transferred and native changes `[draws, items]` at the chosen strength with the map's documents
               and the prompts resampled.

    - `conditions`: of several untrained sources the strongest stands for the null.
    - `above_untrained`: 95% interval of the transferred vector's dose ratio minus that of the strongest
      untrained source, over items and `refits`; `above_untrained_items` over items alone.
    - `untrained_draws`: the untrained sources that it was compared with; `strongest_untrained` is the one
      with the largest curve share.
    - `excess`: the transferred vector's curve share minus that of the strongest null, with its interval and
      that null's name.

    None where the native vector does not steer at these strengths, or there are none, and for one item, which
    has no interval.
    """
    grid = (0.0, *strengths)
    if not strengths or len(record.items) < 2:
        return None
    natural = _curves(record, "native", damages, grid, direction, limit)
    if not natural:
        return None
    native = NativeDose.of(natural[0], grid[-1], seed, record.item_keys)
    if native is None:
        return None
    curves = {
        name: drawn
        for name in COMPARED_BY_DOSE
        if (drawn := _curves(record, name, damages, grid, direction, limit))
    }
    conditions = {}
    for name, drawn in curves.items():
        dose, share = native.ratio(*drawn.values()), native.share(*drawn.values())
        conditions[name] = {
            "ratio": dose.value,
            "below": dose.below,
            "ci": [dose.low, dose.high],
            "share": share.value if share else None,
            "share_ci": share.to_list() if share else None,
        }
    above = above_items = None
    untrained = curves.get(UNTRAINED, {})
    if "transferred" in curves and untrained:
        both = curves["transferred"][0], [*untrained.values()]
        deviations = refit_deviations(refits, len(native.drawn), seed) if refits else None
        above_items = [*native.difference(*both)]
        above = above_items if deviations is None else [*native.difference(*both, deviations)]
    return {
        "effect": float(native.level[0]),
        "native_strength": float(native.dose[0]),
        "largest_strength": grid[-1],
        "conditions": conditions,
        "above_untrained": above,
        "above_untrained_items": above_items,
        "untrained_draws": len(untrained),
        "strongest_untrained": max(untrained, key=lambda draw: _share(native, untrained[draw]), default=None),
        "excess": _excess(native, curves),
    }


def _excess(native: NativeDose, curves: Mapping[str, Mapping[int, EffectCurve]]) -> dict[str, Any] | None:
    """How much more the transferred vector does than the strongest null, by curve share; None where one of
    the two has no curve."""
    nulls = {name: [*drawn.values()] for name, drawn in curves.items() if name != "transferred"}
    if "transferred" not in curves or not nulls:
        return None
    excess = native.excess(curves["transferred"][0], [curve for drawn in nulls.values() for curve in drawn])
    if excess is None:
        return None
    sizes = {name: max(abs(_share(native, curve)) for curve in drawn) for name, drawn in nulls.items()}
    strongest = max(sizes, key=lambda name: sizes[name])
    return {"value": excess.value, "ci": excess.to_list(), "null": strongest, "null_share": sizes[strongest]}


def _share(native: NativeDose, curve: EffectCurve) -> float:
    share = native.share(curve)
    return share.value if share else 0.0


def _curves(
    record: ScoreTable,
    condition: str,
    damages: Sequence[Damage],
    grid: Sequence[float],
    direction: int,
    limit: float,
) -> dict[int, EffectCurve]:
    """By draw, for the draws that have every strength: every untrained source's curve. Of another condition
    there is one, the mean over its draws under the damage of the first.

    Where damage was not measured at every strength the whole curve is read.
    """
    scores = {
        draw: curve
        for draw in record.draw_numbers(condition)
        if (curve := record.curve(condition, grid, draw)) is not None
    }
    if scores and condition != UNTRAINED:
        scores = {0: np.mean([*scores.values()], axis=0)}

    def along(draw: int) -> list[float] | None:
        relative = {d.strength: d.relative for d in damages if (d.condition, d.draw) == (condition, draw)}
        measured = all(s in relative for s in grid[1:])
        return [0.0, *(relative[s] for s in grid[1:])] if measured else None

    return {
        draw: EffectCurve.of(curve, grid, direction, along(draw), limit) for draw, curve in scores.items()
    }


def verdict(compared: dict[str, Any] | None, moves: bool, voided: bool) -> Verdict:
    """Whether a behaviour counts as transferred, in words.

    It does where the whole interval of the transferred vector's dose ratio minus that of the strongest
    untrained source is above zero.

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
