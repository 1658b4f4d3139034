"""Agreement of two vectors within answer keys, item by item.

On two-answer tasks any two vectors that shift one answer's logit agree across keys. All take plain arrays
`[strengths, items]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrt.evaluation.statistics import DRAWS, Array, Estimate, pearson, percentiles


def within_key_change(
    m: Array,  # [s, n]
    strengths: Sequence[float],
    keys: Sequence[str],
) -> Array:  # [nonzero strengths, n]
    """`m(alpha) - m(0)` minus each key's mean, at every nonzero strength.

    On two-answer tasks any vector that shifts one letter's logit moves the items of one key up and
    those of the other down. So changes under *any* two conditions correlate, but not within a key.
    """
    zero = list(strengths).index(0.0)
    change = np.array([row - m[zero] for i, row in enumerate(m) if i != zero])
    groups = np.asarray(keys)
    for key in set(keys):
        inside = groups == key
        change[:, inside] -= change[:, inside].mean(axis=1, keepdims=True)
    return change


def stratified_correlation(
    ours: Array, native: Array, strengths: Sequence[float], keys: Sequence[str]
) -> float:
    """Correlation of the within-key changes, pooled over items and nonzero strengths."""
    return pearson(
        within_key_change(ours, strengths, keys).ravel(),
        within_key_change(native, strengths, keys).ravel(),
    )


def stratified_estimate(
    ours: Array,  # [s, n]
    native: Array,  # [s, n]
    strengths: Sequence[float],
    keys: Sequence[str],
    seed: int = 0,
) -> Estimate:
    """`stratified_correlation` with a bootstrap over items within their keys.

    Each key's mean is subtracted in every sample.
    """
    return mean_stratified_estimate([(ours, native)], strengths, keys, seed)


def mean_stratified_estimate(
    pairs: Sequence[tuple[Array, Array]],  # [s, n] each
    strengths: Sequence[float],
    keys: Sequence[str],
    seed: int = 0,
) -> Estimate:
    """Mean of `stratified_correlation` over pairs, with the bootstrap of `stratified_estimate`.

    Every pair is of the same items, and is drawn alike. Pairs of which one is constant are skipped.
    """
    values = [stratified_correlation(*pair, strengths, keys) for pair in pairs]
    known = [(value, pair) for value, pair in zip(values, pairs, strict=True) if not np.isnan(value)]
    if not known:
        return Estimate(*[float("nan")] * 3)
    value = float(np.mean([each for each, _ in known]))
    samples = np.mean([_stratified_samples(*pair, strengths, keys, seed) for _, pair in known], axis=0)
    samples = samples[~np.isnan(samples)]
    return percentiles(value, samples) if len(samples) else Estimate(value, value, value)


def _stratified_samples(
    ours: Array, native: Array, strengths: Sequence[float], keys: Sequence[str], seed: int
) -> Array:
    """`stratified_correlation` of each bootstrap sample; nan where one side is constant."""
    zero = list(strengths).index(0.0)
    changes = [np.delete(m, zero, axis=0) - m[zero] for m in (ours, native)]  # [s - 1, n]
    groups = np.asarray(keys)
    rng = np.random.default_rng(seed)
    aa = ab = bb = np.zeros(DRAWS)
    for key in sorted(set(keys)):
        inside = np.flatnonzero(groups == key)
        drawn = rng.integers(0, len(inside), size=(DRAWS, len(inside)))
        weights = np.zeros((DRAWS, len(inside)))
        np.add.at(weights, (np.arange(DRAWS)[:, None], drawn), 1.0)
        a, b = (change[:, inside] for change in changes)

        def moment(x: Array, y: Array, w: Array = weights) -> Array:
            """Sum of centred products over items and strengths, of each sample."""
            sums = (w @ x.T) * (w @ y.T)  # [draws, s - 1]
            return np.asarray((w @ (x * y).T - sums / w.shape[1]).sum(axis=1), dtype=np.float64)

        aa, ab, bb = aa + moment(a, a), ab + moment(a, b), bb + moment(b, b)
    scale = np.sqrt(np.maximum(aa * bb, 0.0))
    samples = np.full(DRAWS, np.nan)
    np.divide(ab, scale, out=samples, where=scale > 1e-300)
    return samples


def agreement_ceiling(halves: Estimate) -> Estimate:
    """Largest correlation that any vector can have with a native vector of other prompts: the square root of
    what two native vectors of disjoint prompts have.

    By the attenuation formula of Spearman (1904): what the prompts drawn add to the native vector agrees with
    nothing else. 0 where the halves do not agree.
    """
    return Estimate(*(float(np.sqrt(max(v, 0.0))) for v in (halves.value, halves.low, halves.high)))


def partial_correlation(ours: Array, native: Array, strengths: Sequence[float], keys: Sequence[str]) -> float:
    """`stratified_correlation` with the unsteered propensity `m(0)` partialled out at each strength."""
    zero = list(strengths).index(0.0)
    a = within_key_change(ours, strengths, keys)
    b = within_key_change(native, strengths, keys)
    groups = np.asarray(keys)
    base = native[zero].copy()
    for key in set(keys):
        base[groups == key] -= base[groups == key].mean()
    power = float(base @ base)
    if power > 1e-12:
        a = a - np.outer(a @ base / power, base)
        b = b - np.outer(b @ base / power, base)
    return pearson(a.ravel(), b.ravel())
