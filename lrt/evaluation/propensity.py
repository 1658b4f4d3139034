"""Statistics of two-answer behaviours: the paper's (section 3.4), and statistics within answer keys.

Each stands beside its value for random vectors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lrt.evaluation.directions import HALVES
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.statistics import (
    Array,
    anti_steerable,
    key_shift,
    mean_estimate,
    null_share,
    paper_intervals,
    paper_statistics,
    ratio_estimate,
    slopes,
)
from lrt.evaluation.within_key import (
    agreement_ceiling,
    mean_stratified_estimate,
    partial_correlation,
    stratified_correlation,
    stratified_estimate,
)


def propensity(
    record: ScoreTable,
    probabilities: ScoreTable,
    strengths: Sequence[float],
    direction: int,
    strength: float,
    undamaged: Collection[float],
    seed: int,
) -> dict[str, Any]:
    """Statistics of a two-answer behaviour, by logit differences and by probabilities, as plain data.

    undamaged  Strengths at which the native vector is within the damage limit. Statistics of the whole curve
               (correlations, slopes, anti-steerable shares) use these alone, since the largest strengths
               would dominate and a broken model's answers are not a propensity. Statistics by strength
               use all.
    """
    keys = record.item_keys
    every = list(strengths)
    native = record.curve("native", every)
    ours = record.curve("transferred", every)
    none = record.column("none", 0.0)
    assert native is not None
    assert ours is not None
    assert none is not None
    randoms: list[Array] = []
    while (curve := record.curve("random", every, len(randoms))) is not None:
        randoms.append(curve)
    paper = paper_statistics(ours, native)
    paper_ci = [paper_intervals(a, b, seed, keys) for a, b in zip(ours, native, strict=True)]
    paper_random = [[row["r"] for row in paper_statistics(c, native)] for c in randoms]
    paper_random_mse = [[row["mse"] for row in paper_statistics(c, native)] for c in randoms]
    of_probability = [probabilities.curve(name, every) for name in ("transferred", "native")]
    paper_p, paper_p_ci = [], []
    if of_probability[0] is not None and of_probability[1] is not None:
        paper_p = paper_statistics(of_probability[0], of_probability[1])
        paper_p_ci = [paper_intervals(a, b, seed, keys) for a, b in zip(*of_probability, strict=True)]
    # one strength at a time: its rows beside the unsteered ones
    zero = every.index(0.0)
    alone = [((0.0, s), [zero, i]) for i, s in enumerate(every) if s != 0]
    at = [stratified_estimate(ours[rows], native[rows], pair, keys, seed) for pair, rows in alone]
    at_random = [
        [abs(stratified_correlation(c[rows], native[rows], pair, keys)) for c in randoms]
        for pair, rows in alone
    ]

    pooled = [i for i, s in enumerate(every) if s == 0 or s in undamaged]
    if len(pooled) < 2:
        pooled = list(range(len(every)))
    strengths = [every[i] for i in pooled]
    ours, native, randoms = ours[pooled], native[pooled], [c[pooled] for c in randoms]
    shares = [abs(stratified_correlation(c, native, strengths, keys)) for c in randoms]
    slope, native_slope = slopes(ours, strengths), slopes(native, strengths)
    # a ratio over a native slope of zero, or of the wrong sign, is meaningless
    steers = direction * native_slope.mean() > 0
    ratio = ratio_estimate(slope, native_slope, seed, keys) if steers else None
    across = _across_prompts(record, none, strength, keys, seed)
    chances = [probabilities.curve(name, strengths) for name in ("transferred", "native")]
    within_p = None
    if chances[0] is not None and chances[1] is not None:
        within_p = stratified_estimate(chances[0], chances[1], strengths, keys, seed)
    within = stratified_estimate(ours, native, strengths, keys, seed)
    statistics: dict[str, Any] = _numbers(
        {
            "strengths": every,
            "pooled_strengths": strengths,
            "paper_r": [row["r"] for row in paper],
            "paper_r_ci": [row["r"] for row in paper_ci],
            "paper_mse": [row["mse"] for row in paper],
            "paper_mse_ci": [row["mse"] for row in paper_ci],
            "paper_r_probability": [row["r"] for row in paper_p],
            "paper_r_probability_ci": [row["r"] for row in paper_p_ci],
            "paper_mse_probability": [row["mse"] for row in paper_p],
            "paper_mse_probability_ci": [row["mse"] for row in paper_p_ci],
            "paper_r_random": [float(np.mean(column)) for column in zip(*paper_random, strict=True)],
            "paper_mse_random": [float(np.mean(column)) for column in zip(*paper_random_mse, strict=True)],
            "stratified_r_at": {
                "strengths": [pair[1] for pair, _ in alone],
                "value": [estimate.value for estimate in at],
                "ci": [estimate.to_list() for estimate in at],
                "random": [float(np.mean(draws)) if draws else None for draws in at_random],
            },
            "stratified_r": within.value,
            "stratified_r_ci": within.to_list(),
            "stratified_r_partial": partial_correlation(ours, native, strengths, keys),
            "stratified_r_random": {
                "mean": float(np.mean(shares)),
                "p95": float(np.percentile(shares, 95)),
                "draws": len(shares),
            }
            if shares
            else None,
            "stratified_r_probability": within_p.value if within_p else None,
            "stratified_r_probability_ci": within_p.to_list() if within_p else None,
            **across,
            "slope": float(slope.mean()),
            "slope_ci": mean_estimate(slope, seed, keys).to_list(),
            "native_slope": float(native_slope.mean()),
            "native_slope_ci": mean_estimate(native_slope, seed, keys).to_list(),
            "slope_ratio": ratio.value if ratio else None,
            "slope_ratio_ci": ratio.to_list() if ratio else None,
            "slope_ratio_random": null_share(
                np.array([slopes(c, strengths).mean() for c in randoms]), float(native_slope.mean())
            )
            if ratio and randoms
            else None,
            **_anti_steerable(
                {"": [ours], "native_": [native], "random_": randoms}, strengths, direction, keys, seed
            ),
            "key_shift": {
                name: float(np.mean([key_shift(row - none, keys) for row in rows]))
                for name in ("native", "transferred", "random")
                if (rows := record.draws(name, strength))
            },
        }
    )
    return statistics


def _across_prompts(
    record: ScoreTable, none: Array, strength: float, keys: Sequence[str], seed: int
) -> dict[str, Any]:
    """Correlation within the key of transferred and native vectors of disjoint prompts, and its ceiling.

    Vectors of the same prompts share what is of these prompts alone, so that a transferred vector may agree
    more with the native one than a native vector of other prompts does. Across prompts nothing is shared.
    """
    native, ours = ([np.array([none, h]) for h in record.draws(name, strength)] for name in HALVES)
    halvings = range(0, len(native) - 1, 2)
    pairs = {
        "half_r": [(native[i], native[i + 1]) for i in halvings],
        "across_prompts_r": [(ours[i], native[i ^ 1]) for i in range(len(ours))],
    }
    estimates = {
        name: mean_stratified_estimate(some, (0.0, strength), keys, seed) if some else None
        for name, some in pairs.items()
    }
    halves = estimates["half_r"]
    estimates["ceiling"] = agreement_ceiling(halves) if halves else None
    return {name: e.value if e else None for name, e in estimates.items()} | {
        f"{name}_ci": e.to_list() if e else None for name, e in estimates.items()
    }


def _anti_steerable(
    curves: Mapping[str, Sequence[Array]],
    strengths: Sequence[float],
    direction: int,
    keys: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Shares of items that move the wrong way, with and without the keys' mean shift.

    That shift alone moves all items of one key the wrong way, whatever the question.
    """
    shares: dict[str, Any] = {}
    for of, known in (("anti_steerable", None), ("anti_steerable_within_key", keys)):
        for name, draws in curves.items():
            if draws:
                each = np.mean([anti_steerable(c, strengths, direction, known) for c in draws], axis=0)
                estimate = mean_estimate(each, seed, keys)
                shares |= {f"{name}{of}": estimate.value, f"{name}{of}_ci": estimate.to_list()}
    return shares


def _numbers(value: Any) -> Any:
    """Plain data with None for nan, the correlation of a constant."""
    match value:
        case dict():
            return {key: _numbers(each) for key, each in value.items()}
        case list():
            return [_numbers(each) for each in value]
        case float() if math.isnan(value):
            return None
    return value
