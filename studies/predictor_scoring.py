"""Scores of predictors known before an outcome, with thresholds tested on groups they were not tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from lrt.evaluation.statistics import DRAWS, Estimate

Array = NDArray[np.float64]
CANDIDATES = 41  # quantiles of each predictor that a rule's thresholds are chosen from


@dataclass(frozen=True)
class PredictorScore:
    """How well a predictor predicts whether an outcome reaches a bar.

    spearman   Rank correlation of predictor and outcome, over all rows.
    within     The same within each group, averaged over groups.
    accuracy   Balanced accuracy of `predictor >= threshold` for `outcome >= bar`, the threshold chosen on
               all other groups; 0.5 is chance.
    threshold  Median of the chosen thresholds.
    """

    spearman: float
    within: float
    accuracy: float
    threshold: float


def score_predictor(
    predictor: Sequence[float],
    outcome: Sequence[float],
    groups: Sequence[str],
    bar: float,
) -> PredictorScore:
    """Score a predictor, leaving one group out at a time. Higher values must predict better outcomes.

    Raises ValueError for different lengths, fewer than two groups, non-finite values, or outcomes all on
    one side of the bar.
    """
    x, y, group = np.asarray(predictor, float), np.asarray(outcome, float), np.asarray(groups)
    if not len(x) == len(y) == len(group):
        raise ValueError(f"lengths differ: {len(x)} predictions, {len(y)} outcomes, {len(group)} groups")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("predictions and outcomes must be finite")
    names, good = _checked(groups, y, bar)
    predicted, thresholds = np.zeros(len(x), bool), []
    for name in names:
        out = group == name
        thresholds.append(_best_threshold(x[~out], good[~out]))
        predicted[out] = x[out] >= thresholds[-1]
    within = [_spearman(x[group == n], y[group == n]) for n in names]
    usable = [r for r in within if np.isfinite(r)]
    return PredictorScore(
        _spearman(x, y),
        float(np.mean(usable)) if usable else float("nan"),
        _balanced(predicted, good),
        float(np.median(thresholds)),
    )


@dataclass(frozen=True)
class RuleScore:
    """How well the rule "both predictors reach their thresholds" predicts whether an outcome reaches a bar.

    fixed         Balanced accuracy at the thresholds of the call.
    accuracy      Balanced accuracy with both thresholds chosen together on all other groups.
    alarms        Share of outcomes below the bar that the fixed rule warns of.
    false_alarms  Share of outcomes that reach the bar that the fixed rule warns of.
    """

    fixed: float
    accuracy: float
    alarms: float
    false_alarms: float


def score_rule(
    predictors: Sequence[Sequence[float]],  # two, each [n]
    thresholds: Sequence[float],  # [2]
    outcome: Sequence[float],
    groups: Sequence[str],
    bar: float,
) -> RuleScore:
    """Score a rule of two predictors, leaving one group out at a time; higher must be better for both.

    Raises ValueError for other than two predictors, different lengths, non-finite values, fewer than
    two groups, or outcomes all on one side of the bar.
    """
    x, y, group = np.asarray(predictors, float), np.asarray(outcome, float), np.asarray(groups)
    if x.shape != (2, len(y)) or len(thresholds) != 2 or len(group) != len(y):
        raise ValueError(
            f"a rule must have two predictors of {len(y)} outcomes with a threshold each; got shapes "
            f"{list(x.shape)}, {len(thresholds)} thresholds and {len(group)} groups"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("predictions and outcomes must be finite")
    names, good = _checked(groups, y, bar)
    predicted = np.zeros(len(y), bool)
    for name in names:
        out = group == name
        first, second = _best_pair(x[:, ~out], good[~out])
        predicted[out] = (x[0, out] >= first) & (x[1, out] >= second)
    fixed = (x[0] >= thresholds[0]) & (x[1] >= thresholds[1])
    return RuleScore(
        fixed=_balanced(fixed, good),
        accuracy=_balanced(predicted, good),
        alarms=float((~fixed)[~good].mean()),
        false_alarms=float((~fixed)[good].mean()),
    )


def _checked(groups: Sequence[str], outcome: Array, bar: float) -> tuple[list[str], NDArray[np.bool_]]:
    names = sorted(set(groups))
    if len(names) < 2:
        raise ValueError(f"leaving one group out needs at least two groups; got {names}")
    good = outcome >= bar
    if good.all() or not good.any():
        raise ValueError(f"all outcomes are on one side of the bar {bar}; nothing can be predicted")
    return names, good


def _best_threshold(x: Array, good: NDArray[np.bool_]) -> float:
    """The threshold with the best balanced accuracy, halfway between two values; the middle one of ties."""
    values = np.unique(x)
    cuts = np.concatenate([[values[0] - 1.0], (values[1:] + values[:-1]) / 2, [values[-1] + 1.0]])
    scores = np.array([_balanced(x >= cut, good) for cut in cuts])
    best = cuts[scores >= scores.max() - 1e-12]
    return float(best[len(best) // 2])


def _best_pair(x: Array, good: NDArray[np.bool_]) -> tuple[float, float]:
    """The two thresholds with the best balanced accuracy of both predictors `[2, n]`; the lowest of ties."""
    candidates = [np.quantile(row, np.linspace(0, 1, CANDIDATES)) for row in x]
    above = [(row >= cuts[:, None]).astype(float) for row, cuts in zip(x, candidates, strict=True)]
    rates = []  # of rows predicted right among those that reach the bar, and among those that do not
    for side in (good, ~good):
        if side.any():
            both = above[0][:, side] @ above[1][:, side].T  # [first, second] rows where both reach them
            rates.append((both if side is good else side.sum() - both) / side.sum())
    first, second = np.unravel_index(np.mean(rates, axis=0).argmax(), (CANDIDATES, CANDIDATES))
    return float(candidates[0][first]), float(candidates[1][second])


def _balanced(predicted: NDArray[np.bool_], good: NDArray[np.bool_]) -> float:
    rates = [float((predicted == good)[side].mean()) for side in (good, ~good) if side.any()]
    return float(np.mean(rates))


def _spearman(x: Array, y: Array) -> float:
    """Spearman's correlation; nan where one of the two is constant."""
    constant = np.ptp(x) == 0 or np.ptp(y) == 0
    return float("nan") if constant else float(spearmanr(x, y).statistic)


def rank_correlation(
    predictor: Sequence[float], outcome: Sequence[float], groups: Sequence[str], seed: int = 0
) -> Estimate:
    """Spearman's rank correlation of a predictor and an outcome, with a bootstrap interval over groups.

    Points of one group (a behaviour under several maps, at several layers) are drawn together. Draws in
    which one of the two is constant are skipped; the interval is nan where all are.

    Raises ValueError for different lengths, fewer than two groups, and non-finite values.
    """
    x, y, group = np.asarray(predictor, float), np.asarray(outcome, float), np.asarray(groups)
    names = sorted(set(groups))
    if not len(x) == len(y) == len(group) or len(names) < 2:
        raise ValueError(
            f"{len(x)} predictions, {len(y)} outcomes and {len(group)} groups ({len(names)} distinct): pass "
            "as many of each, from at least two groups"
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
