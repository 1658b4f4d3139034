"""The intervention: add to each row its own vector at its own strength."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.steering.vectors import SteeringVector


@dataclass(frozen=True)
class RowwiseAddition:
    """`h <- h + offset[row]` at every token of every row (paper, section 3).

    offsets  `[r, d]`, strength times vector, in the model's units. A zero row is left untouched to
             the bit. Padding (position below 0) is left alone too.
    """

    offsets: Tensor

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        offsets = self.offsets.to(hidden.device, torch.float32)[:, None, :]
        moved = (hidden.float() + offsets).to(hidden.dtype)
        # h + 0 turns -0 into 0, so a zero row must not be added at all
        touched = (positions >= 0) & (offsets != 0).any(dim=-1)
        return torch.where(touched[:, :, None], moved, hidden)

    def take(self, rows: slice) -> RowwiseAddition:
        """The addition of these rows alone."""
        return RowwiseAddition(self.offsets[rows])


@dataclass(frozen=True)
class Addition:
    """One vector at one strength for every row: the intervention a user registers.

    Under `steer(model, [Addition(vector, 0.8)])` generation and scoring are steered at every
    position, cached or not.
    """

    vector: SteeringVector
    strength: float

    @property
    def layer(self) -> int:
        """The block whose output is changed."""
        return self.vector.layer

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        offset = self.strength * self.vector.scaled()
        return RowwiseAddition(offset.expand(len(hidden), -1))(hidden, positions)
