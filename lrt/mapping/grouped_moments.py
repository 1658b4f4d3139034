"""Moments of groups of rows, such as folds of documents, from one stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrt.mapping.moments import CHUNK_ROWS, Moments

# Rows of a group that are added at once, on average. However few they are, the sums are read and written as a
# whole; that costs little beside the products of 512 rows.
ROWS_A_GROUP = 512


class GroupedMoments:
    """Adds each row to the moments of its group.

    Rows wait until there are enough for all groups. They are then sorted by group, and each group's rows are
    added as one slice, so many groups cost little more than one.

    groups  Moments of the groups; a row of group `g` is added to `groups[g]`.

    Raises ValueError for no groups.
    """

    def __init__(self, groups: Sequence[Moments]) -> None:
        if not groups:
            raise ValueError("there must be at least one group")
        self._groups = groups
        self._least_rows = max(CHUNK_ROWS, ROWS_A_GROUP * len(groups))
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(
        self,
        x: Tensor,  # [n, d_source]
        y: Tensor,  # [n, d_target]
        group: Tensor,  # [n] int64, on the CPU
    ) -> None:
        """Add paired rows. Raises ValueError for a group that is not there, and as `Moments.update`."""
        if len(group) != len(x) or not ((group >= 0) & (group < len(self._groups))).all():
            raise ValueError(f"expected a group from 0 to {len(self._groups) - 1} for each of {len(x)} rows")
        self._waiting.append((x, y, group))
        if sum(len(waiting) for *_, waiting in self._waiting) >= self._least_rows:
            self.flush()

    def flush(self) -> None:
        """Add the rows that wait to the moments. Call it after the last row."""
        if not self._waiting:
            return
        x, y, group = map(_joined, zip(*self._waiting, strict=True))
        self._waiting = []
        counts = group.bincount(minlength=len(self._groups)).tolist()
        if max(counts) < len(group):
            order = group.argsort(stable=True)
            x, y = x.index_select(0, order.to(x.device)), y.index_select(0, order.to(y.device))
        for moments, rows_x, rows_y in zip(
            self._groups, torch.split(x, counts), torch.split(y, counts), strict=True
        ):
            if len(rows_x):
                moments.update(rows_x, rows_y)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])
