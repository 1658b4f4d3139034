"""Hidden states in a byte an entry: one step for each dimension of a shard, in units of each row's own norm,
massive rows kept as they are.

Norms differ several times over from token to token, and lie in the store anyhow. A step that had to reach the
longest rows would be coarse for the others: on a real pair it costs eight times as much of R2. And a few
tokens are tens of times as long as the others and point elsewhere (`filter`), so the steps reach what is not
massive, and massive rows lie beside in full.
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

    values   [n, d] int8, in steps of the row's norm; of massive rows zeros.
    step     [d] float32, as a share of a row's norm: the largest that is not massive, over 127.
    massive  [k, d] rows kept in full, in the states' own dtype.
    where    [k] int64, rising: which rows these are.
    norms    [n] float32, infinite where a state was to be left out: such rows are zero.
    """

    values: Tensor
    step: Tensor
    massive: Tensor
    where: Tensor
    norms: Tensor

    @classmethod
    def of(cls, states: Tensor, norms: Tensor) -> Quantised:
        """Of states `[n, d]`, finite, with their norms `[n]`, infinite where a state is to be left out."""
        where = massive_rows(norms).nonzero().flatten()
        others = (states.float() / _lengths(norms)).index_fill(0, where, 0.0)
        step = others.abs().amax(dim=0) / STEPS
        # a dimension that is zero throughout has no step; any would do
        step = torch.where(step > 0, step, 1.0)
        values = (others / step).round().clamp(-STEPS, STEPS).to(torch.int8)
        return cls(values, step, states[where].clone(), where, norms)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` as states again, `[stop - start, d]` in their own dtype: off by half a step
        at most (and by the dtype's rounding), massive rows by nothing."""
        found = self.values[start:stop].float() * self.step * _lengths(self.norms[start:stop])
        found = found.to(self.massive.dtype)
        first, last = torch.searchsorted(self.where, torch.tensor([start, stop])).tolist()
        found[self.where[first:last] - start] = self.massive[first:last]
        return found


def _lengths(norms: Tensor) -> Tensor:
    """`[n, 1]` to divide rows by; 1 for those without a length."""
    return torch.where(norms.isfinite() & (norms > 0), norms, 1.0)[:, None]
