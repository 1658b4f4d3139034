"""Moments of shuffled pairs: the null in which a target row belongs to another token than its source row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrt.mapping.moments import Moments


class ShuffledPairs:
    """Adds pairs to moments with the target rows permuted within windows of consecutive rows.

    Documents arrive in random order, so a window is a sample of them. The longer the window, the rarer a
    source row meets a target row of its own document.

    draws        Moments of independent permutations; each gets every row once.
    window_rows  A window is closed once it has this many rows, which are held in memory.
    seed         Seed of all permutations.
    """

    def __init__(self, draws: Sequence[Moments], window_rows: int, seed: int) -> None:
        self._draws, self._window_rows = draws, window_rows
        self._window: list[tuple[Tensor, Tensor]] = []
        self._generator = torch.Generator().manual_seed(seed)

    def add(
        self,
        source: Tensor,  # [n, d_source]
        target: Tensor,  # [n, d_target]
    ) -> None:
        """Add paired rows to the window."""
        self._window.append((source, target))
        if sum(len(x) for x, _ in self._window) >= self._window_rows:
            self.flush()

    def flush(self) -> None:
        """Add the window's pairs, target rows permuted, to the moments. Call it after the last row."""
        if not self._window:
            return
        x, y = (torch.cat(side) for side in zip(*self._window, strict=True))
        self._window = []
        for moments in self._draws:
            moments.update(x, y[torch.randperm(len(y), generator=self._generator)])
