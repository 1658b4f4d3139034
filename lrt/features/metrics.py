"""Reconstruction and sparsity of an autoencoder on rows, as torchmetrics whose states are sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.features.autoencoder import SparseAutoencoder
from lrt.mapping import FractionUnexplained
from lrt.mapping.metrics import RowMetric


class MeanActive(RowMetric):
    """L0: the mean number of active features (above zero) per row."""

    higher_is_better: bool | None = None

    rows: Tensor
    active: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("rows", "active"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        features: Tensor,  # [n, m]
    ) -> None:
        self.rows += len(features)
        self.active += (features > 0).sum()

    def compute(self) -> Tensor:
        return self.active.double() / self.rows


class DeadShare(RowMetric):
    """Share of features that are active (above zero) in none of the rows."""

    higher_is_better = False

    fired: Tensor

    def __init__(self, features: int, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("fired", torch.zeros(features, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        features: Tensor,  # [n, m]
    ) -> None:
        self.fired += (features > 0).sum(0)

    def compute(self) -> Tensor:
        return (self.fired == 0).double().mean()


@dataclass(frozen=True)
class SaeScore:
    """Reconstruction and sparsity of an autoencoder.

    fvu   1.0 for the mean, 0.0 for a perfect reconstruction.
    l0    Mean number of active features per row.
    dead  Share of features that are active in none of the rows.
    rows  Number of rows.
    """

    fvu: float
    l0: float
    dead: float
    rows: int


@torch.no_grad()
def score_autoencoder(
    sae: SparseAutoencoder,
    rows: Iterable[Tensor],  # of [n, d]
) -> SaeScore:
    """Score an autoencoder on a stream of hidden states.

    Raises InvalidValue for no rows or rows that are not finite, ValueError for rows of another width.
    """
    active, dead = MeanActive().to(sae.device), DeadShare(sae.features).to(sae.device)
    fvu: FractionUnexplained | None = None
    count = 0
    for batch in rows:
        x = batch.to(sae.device)
        if x.ndim != 2 or x.shape[1] != sae.width:
            raise ValueError(f"the autoencoder reads rows [n, {sae.width}], got {list(x.shape)}")
        if not x.isfinite().all():
            raise InvalidValue(
                "rows are not finite: exclude them (recording.non_finite=exclude), or record in a wider "
                "dtype (pair.source.dtype, pair.target.dtype)"
            )
        if fvu is None:
            fvu = FractionUnexplained(sae.width, x.double().mean(0)).to(sae.device)
        features = sae.encode(x)
        fvu.update(sae.decode(features), x)
        active.update(features)
        dead.update(features)
        count += len(x)
    if fvu is None or count == 0:
        raise InvalidValue("there are no rows to score an autoencoder on: the corpus or split is empty")
    return SaeScore(float(fvu.compute()), float(active.compute()), float(dead.compute()), count)
