"""Hidden states in a byte an entry: one scale for each dimension of a shard, massive rows kept as they are.

A few tokens are tens of times as long as the others (`filter`). Were the scale to reach them, all others
would fall on a few steps of it; so it reaches what is not massive, and massive rows lie beside in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# in medians of the shard's norms: well over what any filter of massive tokens (ten) lets through
MASSIVE = 20.0
STEPS = 127


def massive_rows(norms: Tensor) -> Tensor:
    """Which rows are massive, `[n]` bool, by their norms; infinite ones are not, they are left out."""
    finite = norms.isfinite()
    typical = norms[finite].median() if finite.any() else torch.zeros(())
    return finite & (norms > MASSIVE * typical)


@dataclass(frozen=True)
class Quantised:
    """`n` rows of `d` dimensions.

    values   [n, d] int8, in steps of the scale; of massive rows zeros.
    scale    [d] float32, what one step is worth: the largest entry that is not massive, over 127.
    massive  [k, d] rows kept in full, in the states' own dtype.
    where    [k] int64, rising: which rows these are.
    """

    values: Tensor
    scale: Tensor
    massive: Tensor
    where: Tensor

    @classmethod
    def of(cls, states: Tensor, norms: Tensor) -> Quantised:
        """Of states `[n, d]`, finite, with their norms `[n]`, infinite where a state is to be left out."""
        where = massive_rows(norms).nonzero().flatten()
        others = states.float().index_fill(0, where, 0.0)
        scale = others.abs().amax(dim=0) / STEPS
        # a dimension that is zero throughout has no step; any would do
        scale = torch.where(scale > 0, scale, 1.0)
        values = (others / scale).round().clamp(-STEPS, STEPS).to(torch.int8)
        return cls(values, scale, states[where].clone(), where)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` as states again, `[stop - start, d]` in their own dtype: off by half a step
        at most (and by the dtype's rounding), massive rows by nothing."""
        found = (self.values[start:stop].float() * self.scale).to(self.massive.dtype)
        first, last = torch.searchsorted(self.where, torch.tensor([start, stop])).tolist()
        found[self.where[first:last] - start] = self.massive[first:last]
        return found
