"""What is told of answers that have keys: the paper's statistics (section 3.4), those within the key, which
have a null, and what random vectors score by each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrt.evaluation.columns import Record
from lrt.evaluation.statistics import (
    Array,
    anti_steerable,
    key_shift,
    mean_estimate,
    null_share,
    paper_statistics,
    partial_correlation,
    pearson,
    ratio_estimate,
    slopes,
    stratified_correlation,
    stratified_estimate,
    within_key_change,
)


def propensity(
    record: Record,
    probabilities: Record,
    strengths: Sequence[float],
    direction: int,
    strength: float,
    seed: int,
) -> dict[str, Any]:
    """The paper's statistics of a choice behaviour, of logit differences and of probabilities, and those
    that have a null, beside what random vectors score by each."""
    keys = record.item_keys
    native = record.curve("native", strengths)
    ours = record.curve("transferred", strengths)
    none = record.column("none", 0.0)
    assert native is not None
    assert ours is not None
    assert none is not None
    halves = [record.curve("native_half", strengths, d) for d in (0, 1)]
    randoms: list[Array] = []
    while (curve := record.curve("random", strengths, len(randoms))) is not None:
        randoms.append(curve)
    paper = paper_statistics(ours, native)
    paper_random = [[row["r"] for row in paper_statistics(c, native)] for c in randoms]
    paper_random_mse = [[row["mse"] for row in paper_statistics(c, native)] for c in randoms]
    shares = [abs(stratified_correlation(c, native, strengths, keys)) for c in randoms]
    slope, native_slope = slopes(ours, strengths), slopes(native, strengths)
    # over a native slope of nothing, or one the wrong way, a ratio is not a number
    steers = direction * native_slope.mean() > 0
    ratio = ratio_estimate(slope, native_slope, seed, keys) if steers else None
    ceiling = None
    if halves[0] is not None and halves[1] is not None:
        a, b = (within_key_change(half, strengths, keys) for half in halves if half is not None)
        ceiling = pearson(a.ravel(), b.ravel())
    of_probability = [probabilities.curve(name, strengths) for name in ("transferred", "native")]
    paper_p = (
        paper_statistics(of_probability[0], of_probability[1])
        if of_probability[0] is not None and of_probability[1] is not None
        else []
    )
    within = stratified_estimate(ours, native, strengths, keys, seed)
    zero = list(strengths).index(0.0)
    # one strength at a time: its rows beside the unsteered ones
    alone = [((0.0, s), [zero, i]) for i, s in enumerate(strengths) if s != 0]
    at = [stratified_estimate(ours[rows], native[rows], pair, keys, seed) for pair, rows in alone]
    at_random = [
        [abs(stratified_correlation(c[rows], native[rows], pair, keys)) for c in randoms]
        for pair, rows in alone
    ]
    told: dict[str, Any] = _numbers(
        {
            "strengths": list(strengths),
            "paper_r": [row["r"] for row in paper],
            "paper_mse": [row["mse"] for row in paper],
            "paper_r_probability": [row["r"] for row in paper_p],
            "paper_mse_probability": [row["mse"] for row in paper_p],
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
            "ceiling": ceiling,
            "slope": float(slope.mean()),
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
    return told


def _anti_steerable(
    curves: Mapping[str, Sequence[Array]],
    strengths: Sequence[float],
    direction: int,
    keys: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Shares of items that move the wrong way: as they are, and once the shift of the keys is taken out,
    which puts the items of one key on the wrong side whatever was asked."""
    found: dict[str, Any] = {}
    for of, known in (("anti_steerable", None), ("anti_steerable_within_key", keys)):
        for name, draws in curves.items():
            if draws:
                each = np.mean([anti_steerable(c, strengths, direction, known) for c in draws], axis=0)
                estimate = mean_estimate(each, seed, keys)
                found |= {f"{name}{of}": estimate.value, f"{name}{of}_ci": estimate.to_list()}
    return found


def _numbers(value: Any) -> Any:
    """Plain data with None for every correlation of what does not vary."""
    match value:
        case dict():
            return {key: _numbers(each) for key, each in value.items()}
        case list():
            return [_numbers(each) for each in value]
        case float() if math.isnan(value):
            return None
    return value
