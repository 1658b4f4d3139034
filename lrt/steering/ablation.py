"""Ablating a direction from hidden states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.steering.addition import check_rows
from lrt.steering.vectors import SteeringVector


@dataclass(frozen=True)
class RowwiseAblation:
    """`h <- h - fraction (h . u) u` at every token of every row (Arditi et al., 2406.11717, section 2.4).

    directions  `[r, d]`, of any length: normalised first. A zero row is left untouched to the bit, and so
                is padding (position below 0).
    fractions   `[r]`, of the component that is removed: 1 ablates, 0 leaves the row untouched, below 0
                lengthens the component.
    """

    directions: Tensor
    fractions: Tensor

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        check_rows("directions", self.directions, hidden)
        directions = self.directions.to(hidden.device, torch.float32)
        fractions = self.fractions.to(hidden.device, torch.float32)
        units = torch.nn.functional.normalize(directions, dim=-1)
        along = torch.einsum("rtd,rd->rt", hidden.float(), units) * fractions[:, None]
        moved = (hidden.float() - along[:, :, None] * units[:, None, :]).to(hidden.dtype)
        touched = (positions >= 0) & ((directions != 0).any(dim=-1) & (fractions != 0))[:, None]
        return torch.where(touched[:, :, None], moved, hidden)

    def take(self, rows: slice) -> RowwiseAblation:
        """The ablation of these rows alone."""
        return RowwiseAblation(self.directions[rows], self.fractions[rows])


@dataclass(frozen=True)
class Ablation:
    """One vector's direction ablated from one decoder block's output, for every row.

    From every block: `lrt.models.steer(lm, [Ablation(vector, layer) for layer in range(lm.depth)])`.
    """

    vector: SteeringVector
    layer: int
    fraction: float = 1.0

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        directions = self.vector.unit_direction.expand(len(hidden), -1)
        return RowwiseAblation(directions, torch.full((len(hidden),), self.fraction))(hidden, positions)
