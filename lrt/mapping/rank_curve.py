"""FVU against rank: the best map of each rank, and the ridge map with truncated singular values."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lrt.mapping.moments import Moments
from lrt.mapping.reduced_rank import ReducedRank, reduced_rank_path
from lrt.mapping.ridge import RidgeFit


@dataclass(frozen=True)
class RankCurve:
    """FVU on test rows at some ranks.

    ranks          Powers of two, and the full rank.
    fvu            Of the best map of each rank (reduced-rank regression).
    truncated_fvu  Of the ridge map truncated to its leading singular values.
    rank_95        Least rank that explains 95% of what the full rank explains; None where the full rank
                   explains nothing.
    """

    ranks: list[int]
    fvu: list[float]
    truncated_fvu: list[float]
    rank_95: int | None


def rank_curve(ridge: RidgeFit, train: Moments, test: Moments, *, bias: bool = True) -> RankCurve:
    """The rank curve of a ridge fit.

    ridge  Fit on `train`; every rank uses its ridge weight.
    train  Moments of the training rows.
    test   Moments of the rows that are scored.
    bias   Whether the maps have a bias.

    Raises InvalidValue for test rows that do not vary.
    """
    path = reduced_rank_path(train, ridge.weight, bias=bias)
    fvu = path.fvu(test).tolist()
    ranks = sorted({*(2**i for i in range(20) if 2**i <= len(fvu)), len(fvu)})
    U, s, Vt = torch.linalg.svd(ridge.map.weight.to(train.device), full_matrices=False)
    fitted = train if bias else train.about_origin()
    truncated = ReducedRank(U, s[:, None] * Vt, fitted.mean_x, fitted.mean_y, ridge.weight).fvu(test).tolist()
    return RankCurve(
        ranks=ranks,
        fvu=[fvu[rank - 1] for rank in ranks],
        truncated_fvu=[truncated[rank - 1] for rank in ranks],
        rank_95=path.rank_for(test, 0.95),
    )
