"""Why a null steers: how much of its effect its component along the native vector predicts.

A null has a cosine with the native vector. At a strength `s` its component along that vector is the native
vector at strength `s cos`, and the native curve says what that does. For a direction that is ablated the
native direction loses `cos^2` of the fraction. What is left is the effect of the rest of the null. No further
measurement is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.choice import StrengthGrid
from lrt.evaluation.directions import NULLS
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.statistics import Array, mean_estimate, null_share
from lrt.evaluation.study import Study

EXPLAINED_FROM = 0.2  # share of the native change from which on a null's cause is looked for
ALIGNED_FROM = 0.5  # part of a null's effect that its component along the native vector must predict
CHANCE = 0.05  # that an interval excludes zero by chance, and that so many do

Cause = Literal["noise", "alignment", "damage", "own effect", "unknown"]


def strong_nulls(summary: Mapping[str, Any]) -> list[str]:
    """The nulls of a summary whose mean share of the native change is above `EXPLAINED_FROM`."""
    return [name for name, share in (summary.get("nulls") or {}).items() if share > EXPLAINED_FROM]


def null_causes(
    behaviour: Behaviour,
    study: Study,
    grid: StrengthGrid,
    names: Sequence[str],
    cosines: Mapping[str, Sequence[float]],
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The cause of each of some nulls' effects at the chosen strength, as plain data by the null.

    cosines  By null, of each draw with the native vector at the steered layer.

    cause               The first that holds: `noise` (as many draws have an interval off zero as by chance),
                        `alignment` (`explained` is at least `ALIGNED_FROM`), `damage` (over the damage
                        limit), `own effect`. `unknown` where the native curve does not reach the component,
                        as below 0 without negative strengths.
    share               Of the native change, mean size over draws.
    cosine, projection  Means over draws of the cosine, and of its square: the share of the null's squared
                        length along the native vector.
    predicted           Share that the component along the native vector has by the native curve, mean size.
    rest                Share of what is left, mean size; `rest_ci` its 95% interval over items for one draw.
    explained           Part of the effect that is predicted, by least squares over draws; below 0 where
                        both have other signs.
    """
    record, strength = ScoreTable(study.measurements, study.split), study.choice.strength
    none, native = record.column("none", 0.0), record.column("native", strength)
    assert none is not None
    assert native is not None
    change = float((native - none).mean())
    damages = {
        d.condition: d.relative
        for d in study.damages
        if (d.split, d.strength, d.draw) == (study.split, strength, 0)
    }
    causes = {}
    for name in NULLS:
        if name not in names:
            continue
        along = np.asarray(cosines[name], dtype=np.float64)
        observed = [scores - none for scores in record.draws(name, strength)]
        moves = [mean_estimate(each, seed, record.item_keys).off_zero for each in observed]
        shares = along**2 if behaviour.operation == "ablate" else along
        predicted = [_by_native(record, grid.strengths, strength * float(each)) for each in shares]
        figures: dict[str, Any] = {
            "share": null_share(_means(observed), change)["mean"],
            "cosine": float(along.mean()),
            "projection": float((along**2).mean()),
            "damage": damages.get(name),
            "draws": len(observed),
            "draws_off_zero": sum(moves),
        }
        known = [each - none for each in predicted if each is not None]
        explained = None
        if len(known) == len(observed):
            rest = [one - other for one, other in zip(observed, known, strict=True)]
            explained = float(_means(observed) @ _means(known) / (_means(observed) @ _means(observed)))
            figures |= {
                "predicted": null_share(_means(known), change)["mean"],
                "rest": null_share(_means(rest), change)["mean"],
                "explained": explained,
            }
            if len(rest) == 1:
                figures["rest_ci"] = mean_estimate(rest[0] / change, seed, record.item_keys).to_list()
        causes[name] = {"cause": _cause(figures, explained, grid.damage_limit), **figures}
    return causes


def _cause(figures: Mapping[str, Any], explained: float | None, limit: float) -> Cause:
    if _by_chance(figures["draws_off_zero"], figures["draws"]) > CHANCE:
        return "noise"
    if explained is not None and explained >= ALIGNED_FROM:
        return "alignment"
    if (figures["damage"] or 0.0) > limit:
        return "damage"
    return "unknown" if explained is None else "own effect"


def _by_chance(off_zero: int, draws: int) -> float:
    """Probability that chance alone moves so many intervals or more off zero."""
    return sum(
        math.comb(draws, k) * CHANCE**k * (1 - CHANCE) ** (draws - k) for k in range(off_zero, draws + 1)
    )


def _by_native(record: ScoreTable, strengths: Sequence[float], at: float) -> Array | None:
    """`[items]` scores of the native vector at a strength, interpolated; None beyond the measured ones."""
    curve = record.curve("native", strengths)
    if curve is None or not strengths[0] <= at <= strengths[-1]:
        return None
    after = max(1, int(np.searchsorted(strengths, at)))
    low, high = strengths[after - 1], strengths[after]
    share = (at - low) / (high - low)
    return np.asarray((1 - share) * curve[after - 1] + share * curve[after], dtype=np.float64)


def _means(changes: Sequence[Array]) -> Array:
    return np.array([each.mean() for each in changes])
