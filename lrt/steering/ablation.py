"""Ablating a direction from hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lrt.steering.addition import check_rows
from lrt.steering.placed import Placed
from lrt.steering.vectors import SteeringVector


@dataclass(frozen=True)
class RowwiseAblation:
    """`h <- h - fraction (h . u) u` at every token of every row (Arditi et al., 2406.11717, section 2.4).

    directions  `[r, d]`, of any length: normalised first; `[1, d]` for all rows alike. A zero row is left
                untouched to the bit, and so is padding (position below 0).
    fractions   `[r]`, or `[1]`, of the component that is removed: 1 ablates, 0 leaves the row untouched,
                below 0 lengthens the component.
    """

    directions: Tensor
    fractions: Tensor

    @cached_property
    def _placed(self) -> Placed:
        return Placed(self.directions, self.fractions)

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        check_rows("directions", self.directions, hidden)
        directions, fractions = self._placed.on(hidden.device)
        directions = directions.expand(len(hidden), -1)
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

    @cached_property
    def _rowwise(self) -> RowwiseAblation:
        return RowwiseAblation(self.vector.unit_direction[None], torch.tensor([self.fraction]))

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        return self._rowwise(hidden, positions)
