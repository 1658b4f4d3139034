"""Statistics of steering over items, with bootstrap intervals.

All take plain arrays: `m` is `[strengths, items]`, changes are `[items]`. Resampling is paired: an item is
drawn under every condition. Where items have answer keys, each key is resampled separately. On two-answer
tasks a vector that shifts one answer's logit moves the items of one key up and the others down, so draws
with unequal keys would vary by that shift alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% percentile-bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def off_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def to_list(self) -> list[float]:
        """`[low, high]`."""
        return [self.low, self.high]


def resamples(
    items: int, seed: int = 0, draws: int = DRAWS, keys: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Bootstrap samples as indices `[draws, items]`.

    Drawn within each key of `keys` `[items]` where every key has at least two items (one alone would not
    vary); over all items otherwise.
    """
    rng = np.random.default_rng(seed)
    groups = np.asarray(keys if keys is not None else [""] * items)
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < 2 or counts.min() < 2:
        return rng.integers(0, items, size=(draws, items))
    drawn = np.empty((draws, items), dtype=np.int64)
    for key in names:
        inside = np.flatnonzero(groups == key)
        drawn[:, inside] = inside[rng.integers(0, len(inside), size=(draws, len(inside)))]
    return drawn


def mean_estimate(values: Array, seed: int = 0, keys: Sequence[str] | None = None) -> Estimate:
    """Mean of `[items]` with its interval."""
    return percentiles(values.mean(), values[resamples(len(values), seed, keys=keys)].mean(axis=1))


def ratio_estimate(
    change: Array, native: Array, seed: int = 0, keys: Sequence[str] | None = None
) -> Estimate | None:
    """`mean(change) / mean(native)` with a paired bootstrap over items.

    None where the native change's own interval contains zero: the ratio would be meaningless.
    """
    if not mean_estimate(native, seed, keys).off_zero:
        return None
    return percentiles(change.mean() / native.mean(), _drawn_ratios(change, native, seed, keys))


def ratio_over_refits(
    change: Array,  # [n]
    native: Array,  # [n]
    refits: tuple[Array, Array],  # [draws, n] each
    seed: int = 0,
    keys: Sequence[str] | None = None,
) -> Estimate | None:
    """`mean(change) / mean(native)` with an interval over items and over refits of map and vectors.

    refits  Changes and native changes of each refit, on the same items.

    A refit on documents drawn with replacement sees two thirds of them, so it is a worse map. Its spread
    is informative, its mean is not. The interval is therefore centred on the ratio itself: the item bootstrap
    plus a deviation with the refits' standard deviation, t-distributed with `draws - 1` degrees of freedom,
    since refits are few. None for fewer than two refits with a native change.
    """
    ratios = _drawn_ratios(change, native, seed, keys)
    deviations = refit_deviations(refits, len(ratios), seed)
    return None if deviations is None else percentiles(change.mean() / native.mean(), ratios + deviations)


def refit_deviations(refits: tuple[Array, Array], draws: int, seed: int = 0) -> Array | None:
    """`[draws]` deviations with the standard deviation of the refits' transfer ratios, t-distributed.

    refits  Changes and native changes `[refits, n]`.

    None for fewer than two refits with a native change.
    """
    refitted = refit_ratios(refits)
    if len(refitted) < 2:
        return None
    deviations = np.random.default_rng((seed, draws)).standard_t(len(refitted) - 1, size=draws)
    return np.asarray(refitted.std(ddof=1) * deviations, dtype=np.float64)


def refit_ratios(refits: tuple[Array, Array]) -> Array:
    """Transfer ratio of each refit, from changes and native changes `[draws, n]`.

    Refits without a native change are skipped.
    """
    changes, natives = (side.mean(axis=1) for side in refits)
    usable = np.abs(natives) > 1e-12
    return np.asarray(changes[usable] / natives[usable], dtype=np.float64)


def _drawn_ratios(change: Array, native: Array, seed: int, keys: Sequence[str] | None) -> Array:
    """Bootstrap samples of `mean(change) / mean(native)`, paired over items."""
    drawn = resamples(len(native), seed, keys=keys)
    above, below = change[drawn].mean(axis=1), native[drawn].mean(axis=1)
    usable = np.abs(below) > 1e-12
    return np.asarray(above[usable] / below[usable], dtype=np.float64)


def percentiles(value: float, samples: Array) -> Estimate:
    """A value with the 95% interval of its bootstrap samples."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def pearson(a: Array, b: Array) -> float:
    """Pearson's r of two flat arrays; nan where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-300 else float("nan")


def paper_statistics(ours: Array, native: Array) -> list[dict[str, float]]:
    """Per strength, the paper's Table 1: sample-wise r and MSE of two `[strengths, items]`."""
    return [
        {"r": pearson(a, b), "mse": float(np.mean((a - b) ** 2))} for a, b in zip(ours, native, strict=True)
    ]


def paper_intervals(
    ours: Array, native: Array, seed: int = 0, keys: Sequence[str] | None = None
) -> dict[str, list[float]]:
    """Bootstrap intervals over items of the paper's r and MSE, of two `[items]`; nan for the r of a
    constant."""
    drawn = resamples(len(ours), seed, keys=keys)
    a, b = ours[drawn], native[drawn]
    mse = ((a - b) ** 2).mean(axis=1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    usable = scale > 1e-300
    r = (a * b).sum(axis=1)[usable] / scale[usable]
    interval = percentiles(0.0, r).to_list() if usable.any() else [float("nan")] * 2
    return {"r": interval, "mse": percentiles(0.0, mse).to_list()}


def slopes(m: Array, strengths: Sequence[float]) -> Array:
    """Steerability of each item: least-squares slope of `[strengths, items]` over strength."""
    x = np.asarray(strengths, dtype=np.float64)
    x = x - x.mean()
    return np.asarray(x @ (m - m.mean(axis=0)) / (x @ x), dtype=np.float64)


def without_key_shift(values: Array, keys: Sequence[str]) -> Array:
    """`[items]` with each key's mean moved to the mean over keys.

    Removes the effect of a vector on an answer that does not depend on the question.
    """
    groups, moved = np.asarray(keys), values.copy()
    means = {key: float(values[groups == key].mean()) for key in set(keys)}
    middle = sum(means.values()) / len(means)
    for key, mean in means.items():
        moved[groups == key] += middle - mean
    return moved


def key_shift(change: Array, keys: Sequence[str]) -> float:
    """How far a vector moves one answer against the other, whatever the question, from changes `[items]`.

    Half the distance between the keys' largest and smallest mean change; 0 for one key.
    """
    groups = np.asarray(keys)
    means = [float(change[groups == key].mean()) for key in set(keys)]
    return (max(means) - min(means)) / 2


def anti_steerable(
    m: Array, strengths: Sequence[float], direction: int = 1, keys: Sequence[str] | None = None
) -> Array:
    """`[items]` 1 where an item moves against the intended `direction` (+1 up, -1 down), 0 elsewhere.

    With `keys`, after `without_key_shift`.
    """
    slope = slopes(m, strengths)
    if keys is not None:
        slope = without_key_shift(slope, keys)
    return (direction * slope < 0).astype(np.float64)


def null_share(changes: Array, native: float) -> dict[str, float]:
    """`|change| / |native change|` of a null's draws `[draws]`: mean and 95th percentile."""
    shares = np.abs(changes) / max(abs(native), 1e-12)
    return {
        "mean": float(shares.mean()),
        "p95": float(np.percentile(shares, 95)),
        "draws": len(shares),
    }
