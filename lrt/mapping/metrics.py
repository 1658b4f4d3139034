"""Scores of a map on rows, as torchmetrics whose states are sums.

A metric scores the rows of its own process. The sum over the processes of a fit is taken by `collect` alone:
after a distributed fit its process group is still there and its other processes are not.

States are float64. Target rows are centred by a fixed point (the training mean), since
`sum y^2 - (sum y)^2 / n` loses digits where the mean is large.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric

from lrt.mapping.moments import unit_vector


class RowMetric(Metric):
    """Base class: `compute` is over the rows of this process."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"sync_on_compute": False, **options})


class FractionUnexplained(RowMetric):
    """FVU `= sum ||y_hat - y||^2 / sum ||y - y_mean||^2`, with `y_mean` per dimension over the rows.

    The mean predictor scores 1.0, a perfect map 0.0. NaN where the rows do not vary. `centre` `[d_target]`
    should be near the rows' mean; it changes rounding only.
    """

    higher_is_better: bool | None = False

    centre: Tensor
    rows: Tensor
    squared_error: Tensor
    total: Tensor
    total_squared: Tensor

    def __init__(
        self,
        d_target: int,
        centre: Tensor | None = None,  # [d_target]
        **options: Any,
    ) -> None:
        super().__init__(**options)
        start = torch.zeros(d_target, dtype=torch.float64)
        self.register_buffer("centre", start.clone() if centre is None else centre.double().clone())
        self._add_sum("rows", torch.zeros((), dtype=torch.float64))
        self._add_sum("squared_error", torch.zeros((), dtype=torch.float64))
        self._add_sum("total", start.clone())
        self._add_sum("total_squared", torch.zeros((), dtype=torch.float64))

    def _add_sum(self, name: str, default: Tensor) -> None:
        self.add_state(name, default=default, dist_reduce_fx="sum")

    def update(
        self,
        predicted: Tensor,  # [n, d_target]
        observed: Tensor,  # [n, d_target]
    ) -> None:
        shifted = observed.double() - self.centre
        self.rows += len(observed)
        self.squared_error += (predicted.double() - observed.double()).square().sum()
        self.total += shifted.sum(0)
        self.total_squared += shifted.square().sum()

    def compute(self) -> Tensor:
        variation = self.total_squared - self.total.square().sum() / self.rows
        return torch.where(variation > 0, self.squared_error / variation, torch.nan)


class ErrorAlong(FractionUnexplained):
    """FVU with both sides projected on one target direction, such as a steering vector.

    Raises InvalidValue for a direction that is zero or not finite.
    """

    direction: Tensor

    def __init__(
        self,
        direction: Tensor,  # [d_target]
        centre: Tensor | None = None,  # [d_target]
        **options: Any,
    ) -> None:
        unit = unit_vector(direction, len(direction))
        along = None if centre is None else (centre.double() @ unit.to(centre.device))[None]
        super().__init__(1, along, **options)
        self.register_buffer("direction", unit)

    def update(
        self,
        predicted: Tensor,  # [n, d_target]
        observed: Tensor,  # [n, d_target]
    ) -> None:
        super().update(
            predicted.double() @ self.direction[:, None],
            observed.double() @ self.direction[:, None],
        )


class MeanCosine(RowMetric):
    """Mean over rows of the cosine between predicted and observed states, uncentred."""

    higher_is_better = True

    rows: Tensor
    cosines: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("rows", "cosines"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        predicted: Tensor,  # [n, d_target]
        observed: Tensor,  # [n, d_target]
    ) -> None:
        cosines = torch.cosine_similarity(predicted.double(), observed.double(), dim=-1)
        self.rows += len(observed)
        self.cosines += cosines.sum()

    def compute(self) -> Tensor:
        return self.cosines / self.rows


def collect(trainer: Trainer, split: str, scores: Iterable[tuple[str, Metric]]) -> dict[str, Tensor]:
    """Values `split/name` of an epoch's scores, which are reset for the next epoch.

    The states of all processes of the trainer are summed, so the values are the same in each.
    """
    values: dict[str, Tensor] = {}
    for name, score in scores:
        with score.sync_context(should_sync=trainer.world_size > 1):
            values[f"{split}/{name}"] = score.compute()
        score.reset()
    return values
