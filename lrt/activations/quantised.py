"""Hidden states in one byte per entry, with one step per dimension of a shard, relative to each token's norm.

Norms differ several times from token to token, and are stored anyway. A step wide enough for the longest
tokens would be coarse for the others: on a real pair it loses eight times as much of R2. A few massive tokens
are tens of times longer still and point elsewhere (`filter`). They are stored in full and do not widen the
steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# multiple of the shard's median norm; well over the default limit of `filter` (ten)
MASSIVE = 20.0
STEPS = 127


def massive_rows(norms: Tensor) -> Tensor:
    """Which tokens are massive, `[n]` bool, by their norms `[n]`. An infinite norm (excluded) is not."""
    finite = norms.isfinite()
    typical = norms[finite].median() if finite.any() else torch.zeros(())
    return finite & (norms > MASSIVE * typical)


@dataclass(frozen=True)
class Quantised:
    """Quantised states of `n` tokens in `d` dimensions.

    values   [n, d] int8, in steps times the token's norm; zeros for massive tokens.
    step     [d] float32, relative to a token's norm: the largest entry that is not massive, over 127.
    massive  [k, d] states of massive tokens, in the states' own dtype.
    where    [k] int64, ascending indices of the massive tokens.
    norms    [n] float32; infinite for excluded tokens, whose states are zero.
    """

    values: Tensor
    step: Tensor
    massive: Tensor
    where: Tensor
    norms: Tensor

    @classmethod
    def of(cls, states: Tensor, norms: Tensor) -> Quantised:
        """Quantise finite states `[n, d]` with norms `[n]`, which are infinite for excluded tokens."""
        where = massive_rows(norms).nonzero().flatten()
        others = (states.float() / _lengths(norms)).index_fill(0, where, 0.0)
        step = others.abs().amax(dim=0) / STEPS
        # any step will do for a dimension that is zero throughout
        step = torch.where(step > 0, step, 1.0)
        values = (others / step).round().clamp(-STEPS, STEPS).to(torch.int8)
        return cls(values, step, states[where].clone(), where, norms)

    def rows(self, start: int, stop: int) -> Tensor:
        """States of tokens `start` to `stop`, `[stop - start, d]` in their own dtype.

        Off by at most half a step and the dtype's rounding; exact for massive tokens.
        """
        states = self.values[start:stop].float() * self.step * _lengths(self.norms[start:stop])
        states = states.to(self.massive.dtype)
        first, last = torch.searchsorted(self.where, torch.tensor([start, stop])).tolist()
        states[self.where[first:last] - start] = self.massive[first:last]
        return states


def _lengths(norms: Tensor) -> Tensor:
    """Norms to divide states by, `[n, 1]`; 1 where the norm is zero or infinite."""
    return torch.where(norms.isfinite() & (norms > 0), norms, 1.0)[:, None]
