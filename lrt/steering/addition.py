"""Adding a steering vector to hidden states."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.models import hooks
from lrt.models.language_model import LanguageModel
from lrt.numbers import finite
from lrt.steering.placed import Placed
from lrt.steering.vectors import SteeringVector


def check_rows(name: str, vectors: Tensor, hidden: Tensor) -> None:
    """Raise InvalidValue unless `vectors` are `[r, d]`, or `[1, d]`, for hidden states `[r, t, d]`."""
    expected = [hidden.shape[0], hidden.shape[-1]]
    if list(vectors.shape) not in (expected, [1, expected[1]]):
        raise InvalidValue(
            f"{name} have shape {list(vectors.shape)}, and must have {expected} (rows, width) for hidden "
            f"states {list(hidden.shape)}: use vectors of this model"
        )


@dataclass(frozen=True)
class RowwiseAddition:
    """`h <- h + offset[row]` at every token of every row (paper, section 3).

    offsets  `[r, d]`, strength times vector, in the model's units; `[1, d]` for all rows alike. A zero row
             is left untouched to the bit, and so is padding (position below 0).

    Raises InvalidValue when called on hidden states of another number of rows or width.
    """

    offsets: Tensor

    @cached_property
    def _placed(self) -> Placed:
        return Placed(self.offsets)

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        check_rows("offsets", self.offsets, hidden)
        (offsets,) = self._placed.on(hidden.device)
        offsets = offsets[:, None, :]
        moved = (hidden.float() + offsets).to(hidden.dtype)
        # h + 0 turns -0 into 0, so a zero row must not be added at all
        touched = (positions >= 0) & (offsets != 0).any(dim=-1)
        return torch.where(touched[:, :, None], moved, hidden)

    def take(self, rows: slice) -> RowwiseAddition:
        """The addition of these rows alone."""
        return RowwiseAddition(self.offsets[rows])


@dataclass(frozen=True)
class Addition:
    """One vector at one strength for every row and position (an `lrt.models.Intervention`)."""

    vector: SteeringVector
    strength: float

    @property
    def layer(self) -> int:
        """The decoder block whose output is changed."""
        return self.vector.layer

    @cached_property
    def _rowwise(self) -> RowwiseAddition:
        return RowwiseAddition(self.strength * self.vector.scaled()[None])

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        return self._rowwise(hidden, positions)


def steer(lm: LanguageModel, vector: SteeringVector, strength: float) -> AbstractContextManager[None]:
    """Add `strength` times the vector, in median residual norms, to its block's output.

        with steer(lm, vector, 0.8):
            lm.model.generate(...)

    Every position of every forward pass in the body is steered, cached or not.

    Raises InvalidValue for what is no steering vector, one of another width or of a layer that the model
    lacks, and for a strength that is no finite number.
    """
    if not isinstance(vector, SteeringVector):
        raise InvalidValue(
            f"`vector` is a {type(vector).__name__}; it must be a SteeringVector, such as `.vector` of what "
            "`transfer` returns, or what `SteeringVector.load` or `read_vector` read"
        )
    strength = finite("strength", strength)
    lm.resolve_layer(vector.layer, "layer of the steering vector")
    if len(vector.direction) != lm.width:
        raise InvalidValue(
            f"{vector!r} has width {len(vector.direction)}; {lm.spec.name} has hidden states of {lm.width}"
        )
    return hooks.steer(lm, [Addition(vector, strength)])
