"""The FVU of the null of shuffled pairs, computed from the sums of the pairs themselves."""

from __future__ import annotations

from lrt.errors import InvalidValue
from lrt.mapping.moments import Moments
from lrt.mapping.ridge import about, check_weight, ridge_solve


def shuffled_fvu(train: Moments, weight: float, test: Moments) -> float | None:
    """Expected FVU on test rows of the ridge map (with a bias) of training rows whose pairs are shuffled.

    Over permutations of the `n` target rows, `W = A^-1 X'Y` with `A = S_xx + weight I` has mean 0, and its
    rows have covariance `A^-1 S_xx A^-1 S_yy[j, j] / (n - 1)`. The expectation is exact, and no row is read
    again. It is 1, as of the mean, plus what the map fits of the noise. None where the training rows do not
    span the source at this weight.

    Raises InvalidValue for test rows that do not vary.
    """
    check_weight(weight)
    total = test.scatter_yy.trace()
    if not total > 0:
        raise InvalidValue("the test rows do not vary, so FVU is undefined: give the corpus more documents")
    off_x, off_y = test.mean_x - train.mean_x, test.mean_y - train.mean_y
    spread = about(test.scatter_xx, test.count, off_x, off_x)
    try:
        solved, of_test = (ridge_solve(train, weight, each) for each in (train.scatter_xx, spread))
    except InvalidValue:
        return None
    noise = (solved * of_test.T).sum() * train.scatter_yy.trace() / max(train.count - 1, 1)
    return float((total + test.count * off_y.square().sum() + noise) / total)
