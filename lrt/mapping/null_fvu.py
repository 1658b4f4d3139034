"""The FVU of the null of shuffled pairs, computed from the sums of the pairs themselves."""

from __future__ import annotations

from lrt.errors import InvalidValue
from lrt.mapping.moments import Moments
from lrt.mapping.ridge import SharedRidge, about, check_weight

NOT_SPANNED = 1e-14  # share of the largest eigenvalue below which one is rounding error


def shuffled_fvu(ridge: SharedRidge, train: Moments, weight: float, test: Moments) -> float | None:
    """Expected FVU on test rows of the ridge map of training rows whose pairs are shuffled.

    Over permutations of the `n` target rows, `W = A^-1 X'Y` with `A = S_xx + weight I` has mean 0, and its
    rows have covariance `A^-1 S_xx A^-1 S_yy[j, j] / (n - 1)`. The expectation is exact, and no row is read
    again. It is 1, as of the mean, plus what the map fits of the noise.

    ridge  The decomposition of the training rows.

    None for maps without a bias, and where the training rows do not span the source at this weight. Raises
    InvalidValue for test rows that do not vary, ValueError for other rows than those decomposed.
    """
    check_weight(weight)
    total = test.scatter_yy.trace()
    if not total > 0:
        raise InvalidValue("the test rows do not vary, so FVU is undefined: give the corpus more documents")
    ridge.fitted(train)
    shrunk = ridge.eigenvalues + weight
    if not ridge.bias or float(shrunk.min()) <= float(shrunk.max()) * NOT_SPANNED:
        return None
    off_x, off_y = test.mean_x - train.mean_x, test.mean_y - train.mean_y
    spread = about(test.scatter_xx, test.count, off_x, off_x)
    along = (ridge.vectors * (spread @ ridge.vectors)).sum(0)  # of the test rows, by eigenvector
    noise = (ridge.eigenvalues / shrunk.square()) @ along
    noise *= train.scatter_yy.trace() / max(train.count - 1, 1)
    return float((total + test.count * off_y.square().sum() + noise) / total)
