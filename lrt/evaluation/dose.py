"""Dose: how much strength a vector needs for what the native vector does, read off curves over strength.

At one strength where effects saturate, a weak vector has as much effect as a strong one. Two statistics see
the difference:

- the dose ratio: the strength at which the native vector reaches half of its largest effect, over the
  strength at which the other vector reaches the same effect,
- the curve share: the area under the other vector's curve as a share of the area under the native one.

Every curve is read up to its own damage limit. Arrays are `[strengths, items]`; intervals are paired
bootstraps over items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrt.evaluation.statistics import Array, Estimate, mean_estimate, resamples

HALF = 0.5  # of the native vector's largest undamaged effect: where doses are compared


@dataclass(frozen=True, eq=False)
class EffectCurve:
    """Effects of one condition on each item, over strengths without damage.

    strengths  `[s]`, rising from 0 to where the damage limit is reached, or to the end of the grid.
    effects    `[s, items]` changes in the intended direction; 0 at strength 0.
    """

    strengths: Array
    effects: Array

    @classmethod
    def of(
        cls,
        scores: Array,  # [s, items]; the first row is the unsteered model's
        strengths: Sequence[float],
        direction: int = 1,
        damages: Sequence[float] | None = None,  # [s] relative
        limit: float = math.inf,
    ) -> EffectCurve:
        """The curve of scores over strengths, up to the strength at which damage first exceeds the limit.

        Scores and damage are interpolated linearly. A curve whose damage is not finite ends at the strength
        before. Without damages the whole curve is read.
        """
        grid = np.asarray(strengths, dtype=np.float64)
        if grid[0] != 0 or (np.diff(grid) <= 0).any():
            raise ValueError(f"strengths must rise from 0, got {list(strengths)}")
        effects = direction * (scores - scores[0])
        if damages is not None:
            along = np.nan_to_num(np.asarray(damages, dtype=np.float64), nan=math.inf, posinf=math.inf)
            end = _reaching(grid, along[None], np.array([limit]))[0]
            if end < grid[-1]:
                inside = max(1, int((grid < end).sum()))  # at least strength 0, which does no damage
                share = (end - grid[inside - 1]) / (grid[inside] - grid[inside - 1])
                last = (1 - share) * effects[inside - 1] + share * effects[inside]
                return cls(np.append(grid[:inside], end), np.vstack([effects[:inside], last]))
        return cls(grid, effects)


@dataclass(frozen=True)
class DoseRatio:
    """A dose ratio with its 95% interval.

    value  None where the vector never reaches the effect without damage; `below` is then the bound: the
           native dose over the largest strength that is compared.
    low    A sample in which the effect is not reached counts as 0 here,
    high   and as its bound here: the interval holds whatever the ratio may be.
    """

    value: float | None
    below: float | None
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class NativeDose:
    """The native vector's curve as the measure of others, over the same bootstrap samples of items.

    The first entry of every array is of the items themselves, the others are of the samples.

    level  `[1 + draws]` half of the largest effect.
    dose   `[1 + draws]` the strength at which it is first reached.
    area   `[1 + draws]` under the curve up to `end`.
    end    The largest strength that is compared.
    """

    end: float
    level: Array
    dose: Array
    area: Array
    drawn: NDArray[np.int64]  # [draws, items]

    @classmethod
    def of(
        cls, native: EffectCurve, end: float, seed: int = 0, keys: Sequence[str] | None = None
    ) -> NativeDose | None:
        """None where the largest effect's interval is not above zero: the native vector does not steer."""
        best = native.effects[native.effects.mean(axis=1).argmax()]
        if mean_estimate(best, seed, keys).low <= 0:
            return None
        drawn = resamples(native.effects.shape[1], seed, keys=keys)
        means = _means(native, drawn)
        usable = means.max(axis=1) > 0
        means, drawn = means[usable], drawn[usable[1:]]
        level = HALF * means.max(axis=1)
        area = _area(native, means, end)
        return cls(end, level, _reaching(native.strengths, means, level), area, drawn)

    def ratio(self, *curves: EffectCurve) -> DoseRatio:
        """The dose ratio of another condition on the same items; of several curves, the largest that is
        reached."""
        low, high = self._bounds(curves)
        reached = low[0] > 0
        return DoseRatio(
            float(low[0]) if reached else None,
            None if reached else float(high[0]),
            *_interval(low[1:], high[1:]),
        )

    def difference(
        self, one: EffectCurve, others: Sequence[EffectCurve], deviations: Array | float = 0.0
    ) -> tuple[float, float]:
        """95% interval of a dose ratio minus the largest of some others, paired over items.

        Which of the others is the largest is decided in every sample anew. Where a dose ratio is only
        bounded, the interval holds whatever the difference may be.

        deviations  `[draws]` of the first dose ratio for other reasons than the items, added to the samples.
        """
        (one_low, one_high), (other_low, other_high) = self._bounds([one]), self._bounds(others)
        return _interval((one_low - other_high)[1:] + deviations, (one_high - other_low)[1:] + deviations)

    def share(self, *curves: EffectCurve) -> Estimate | None:
        """The curve share of another condition; of several curves, the largest. None where the native area
        is not above zero."""
        if self.area[0] <= 0:
            return None
        shares = self._shares(curves).max(axis=0)
        return Estimate(float(shares[0]), *_interval(shares[1:], shares[1:]))

    def excess(self, one: EffectCurve, others: Sequence[EffectCurve]) -> Estimate | None:
        """A curve share minus the largest of some others, by size and in either direction, paired over items.

        Which of the others is the largest is decided in every sample anew. None where the native area is not
        above zero.
        """
        if self.area[0] <= 0:
            return None
        differences = self._shares([one])[0] - np.abs(self._shares(others)).max(axis=0)
        return Estimate(float(differences[0]), *_interval(differences[1:], differences[1:]))

    def _shares(self, curves: Sequence[EffectCurve]) -> Array:
        """Curve shares `[curves, 1 + draws]`, without the samples in which the native area is not above
        zero."""
        usable = self.area > 0
        areas = [_area(curve, _means(curve, self.drawn), self.end)[usable] for curve in curves]
        return np.stack(areas) / self.area[usable]

    def _bounds(self, curves: Sequence[EffectCurve]) -> tuple[Array, Array]:
        """Least and largest value `[1 + draws]` of the largest dose ratio: equal where the effect is
        reached."""
        at = np.stack([_reaching(c.strengths, _means(c, self.drawn), self.level) for c in curves])
        high = self.dose / np.minimum(at, self.end)
        return np.where(np.isfinite(at), high, 0.0).max(axis=0), high.max(axis=0)


def _means(curve: EffectCurve, drawn: NDArray[np.int64]) -> Array:
    """Mean effects `[1 + draws, s]`: over the items, then over each sample."""
    samples = [np.append(row.mean(), row[drawn].mean(axis=1)) for row in curve.effects]
    return np.stack(samples, axis=1)


def _reaching(strengths: Array, curves: Array, level: Array) -> Array:
    """Strength at which each curve `[c, s]` first reaches its level `[c]`, interpolated; inf where it never
    does."""
    reached = curves >= level[:, None]
    after = np.maximum(reached.argmax(axis=1), 1)
    every = np.arange(len(curves))
    low, high = curves[every, after - 1], curves[every, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (level - low) / (high - low)
    at = strengths[after - 1] + share * (strengths[after] - strengths[after - 1])
    return np.where(reached.any(axis=1), at, np.inf)


def _area(curve: EffectCurve, means: Array, end: float) -> Array:
    """Area `[c]` under mean effects `[c, s]` up to a strength; past the damage limit the effect stays as it
    is there, since no more may be given."""
    within = (means[:, 1:] + means[:, :-1]) / 2 @ np.diff(curve.strengths)
    return np.asarray(within + means[:, -1] * (end - curve.strengths[-1]), dtype=np.float64)


def _interval(low: Array, high: Array) -> tuple[float, float]:
    return float(np.percentile(low, 2.5)), float(np.percentile(high, 97.5))
