"""How well a figure that is known beforehand tells an outcome, scored on groups it was not tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrt.evaluation.statistics import DRAWS, Estimate

Array = NDArray[np.float64]
CUTS = 41  # quantiles of each predictor that a rule's thresholds are chosen among


@dataclass(frozen=True)
class Telling:
    """How a predictor tells whether an outcome reaches a bar.

    spearman   Rank correlation of predictor and outcome, over everything.
    within     The same within each group, averaged: what tells one map from another for one vector.
    accuracy   Balanced accuracy of `outcome >= bar` from `predictor >= threshold`, the threshold chosen on
               all other groups, averaged over the groups' rows: .5 is a coin.
    threshold  Median of the thresholds chosen.
    """

    spearman: float
    within: float
    accuracy: float
    threshold: float


def telling(
    predictor: Sequence[float],
    outcome: Sequence[float],
    groups: Sequence[str],
    bar: float,
) -> Telling:
    """Scores a predictor leaving one group out at a time. Higher must mean better.

    Raises ValueError for lengths that differ, fewer than two groups, non-finite values, or outcomes that
    all lie on one side of the bar.
    """
    x, y, group = np.asarray(predictor, float), np.asarray(outcome, float), np.asarray(groups)
    if not len(x) == len(y) == len(group):
        raise ValueError(f"lengths differ: {len(x)} predictions, {len(y)} outcomes, {len(group)} groups")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("predictions and outcomes must be finite")
    names, good = _checked(groups, y, bar)
    said, thresholds = np.zeros(len(x), bool), []
    for name in names:
        out = group == name
        thresholds.append(_best_threshold(x[~out], good[~out]))
        said[out] = x[out] >= thresholds[-1]
    within = [_spearman(x[group == n], y[group == n]) for n in names]
    usable = [r for r in within if np.isfinite(r)]
    return Telling(
        _spearman(x, y),
        float(np.mean(usable)) if usable else float("nan"),
        _balanced(said, good),
        float(np.median(thresholds)),
    )


@dataclass(frozen=True)
class Rule:
    """How well "every predictor reaches its threshold" tells whether an outcome reaches a bar.

    `fixed` is the balanced accuracy at the thresholds given; `accuracy` with both chosen together on all
    other groups; `alarms` the share of outcomes under the bar that the fixed rule warns of, and
    `false_alarms` the share of those that reach it.
    """

    fixed: float
    accuracy: float
    alarms: float
    false_alarms: float


def rule_telling(
    predictors: Sequence[Sequence[float]],  # two, each [n]
    thresholds: Sequence[float],  # [2]
    outcome: Sequence[float],
    groups: Sequence[str],
    bar: float,
) -> Rule:
    """Scores a rule of two predictors, higher being better for both.

    Raises ValueError for other than two predictors, lengths that differ, non-finite values, fewer than
    two groups, or outcomes that all lie on one side of the bar.
    """
    x, y, group = np.asarray(predictors, float), np.asarray(outcome, float), np.asarray(groups)
    if x.shape != (2, len(y)) or len(thresholds) != 2 or len(group) != len(y):
        raise ValueError(
            f"a rule is of two predictors of {len(y)} outcomes with a threshold each, got shapes "
            f"{list(x.shape)}, {len(thresholds)} thresholds and {len(group)} groups"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("predictions and outcomes must be finite")
    names, good = _checked(groups, y, bar)
    said = np.zeros(len(y), bool)
    for name in names:
        out = group == name
        cuts = [np.quantile(row[~out], np.linspace(0, 1, CUTS)) for row in x]
        best, chosen = -1.0, (0.0, 0.0)
        for first in cuts[0]:
            for second in cuts[1]:
                score = _balanced((x[0, ~out] >= first) & (x[1, ~out] >= second), good[~out])
                if score > best:
                    best, chosen = score, (first, second)
        said[out] = (x[0, out] >= chosen[0]) & (x[1, out] >= chosen[1])
    fixed = (x[0] >= thresholds[0]) & (x[1] >= thresholds[1])
    return Rule(
        fixed=_balanced(fixed, good),
        accuracy=_balanced(said, good),
        alarms=float((~fixed)[~good].mean()),
        false_alarms=float((~fixed)[good].mean()),
    )


def _checked(groups: Sequence[str], outcome: Array, bar: float) -> tuple[list[str], NDArray[np.bool_]]:
    names = sorted(set(groups))
    if len(names) < 2:
        raise ValueError(f"leaving one group out needs at least two, got {names}")
    good = outcome >= bar
    if good.all() or not good.any():
        raise ValueError(f"all outcomes lie on one side of {bar}, so there is nothing to tell apart")
    return names, good


def _best_threshold(x: Array, good: NDArray[np.bool_]) -> float:
    """Halfway between the two values that separate best; the middle one of ties."""
    values = np.unique(x)
    cuts = np.concatenate([[values[0] - 1.0], (values[1:] + values[:-1]) / 2, [values[-1] + 1.0]])
    scores = np.array([_balanced(x >= cut, good) for cut in cuts])
    best = cuts[scores >= scores.max() - 1e-12]
    return float(best[len(best) // 2])


def _balanced(said: NDArray[np.bool_], good: NDArray[np.bool_]) -> float:
    rates = [float((said == good)[side].mean()) for side in (good, ~good) if side.any()]
    return float(np.mean(rates))


def _spearman(x: Array, y: Array) -> float:
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


def _ranks(values: Array) -> Array:
    """Ranks, ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray(((ends - counts + ends - 1) / 2)[inverse], dtype=np.float64)


def rank_correlation(
    predictor: Sequence[float], outcome: Sequence[float], groups: Sequence[str], seed: int = 0
) -> Estimate:
    """Spearman's rank correlation of a predictor and an outcome, with an interval over groups drawn anew.

    Points of one group (a behaviour by several maps, at several layers) are drawn together. Draws in which
    one of the two does not vary are left out; where none is left the interval is nan.

    Raises ValueError for lengths that differ, fewer than two groups, and non-finite values.
    """
    x, y, group = np.asarray(predictor, float), np.asarray(outcome, float), np.asarray(groups)
    names = sorted(set(groups))
    if not len(x) == len(y) == len(group) or len(names) < 2:
        raise ValueError(
            f"{len(x)} predictions, {len(y)} outcomes and {len(group)} groups ({len(names)} of them "
            "distinct): give as many of each, of two groups or more"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("predictions and outcomes must be finite")
    members = [np.flatnonzero(group == name) for name in names]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        drawn.append(_spearman(x[rows], y[rows]))
    usable = [r for r in drawn if np.isfinite(r)]
    low, high = np.percentile(usable, [2.5, 97.5]) if usable else (np.nan, np.nan)
    return Estimate(_spearman(x, y), float(low), float(high))
