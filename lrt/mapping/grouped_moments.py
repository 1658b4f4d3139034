"""Moments of groups of rows, such as folds of documents, from one stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor

from lrt.mapping.moments import CHUNK_ROWS

Rows = TypeVar("Rows", Tensor, Mapping[int, Tensor])
AnyRows = TypeVar("AnyRows", Tensor, Mapping[int, Tensor], contravariant=True)

# Rows of a group that are added at once, on average. However few they are, the sums are read and written as a
# whole; that costs little beside the products of 512 rows.
ROWS_A_GROUP = 512


class Sums(Protocol[AnyRows]):
    """What rows are added to: `Moments`, or with rows by layer `GridMoments`."""

    def update(self, x: AnyRows, y: AnyRows, /) -> None:
        """Add paired rows."""


class GroupedMoments(Generic[Rows]):
    """Adds each row to the moments of its group.

    Rows wait until there are enough for all groups. They are then sorted by group, and each group's rows are
    added as one slice, so many groups cost little more than one.

    groups  Moments of the groups; a row of group `g` is added to `groups[g]`. Of `GridMoments` the rows of
            both sides are mappings by layer.

    Raises ValueError for no groups.
    """

    def __init__(self, groups: Sequence[Sums[Rows]]) -> None:
        if not groups:
            raise ValueError("there must be at least one group")
        self._groups: Sequence[Sums[Rows]] = groups
        self._least_rows = max(CHUNK_ROWS, ROWS_A_GROUP * len(groups))
        self._waiting: list[tuple[Rows, Rows, Tensor]] = []

    def add(
        self,
        x: Rows,  # [n, d_source], or by layer
        y: Rows,  # [n, d_target], or by layer
        group: Tensor,  # [n] int64, on the CPU
    ) -> None:
        """Add paired rows. Raises ValueError for a group that is not there, and as `Moments.update`."""
        count = len(next(iter(_by_layer(x).values())))
        if len(group) != count or not ((group >= 0) & (group < len(self._groups))).all():
            raise ValueError(f"expected a group from 0 to {len(self._groups) - 1} for each of {count} rows")
        self._waiting.append((x, y, group))
        if sum(len(waiting) for *_, waiting in self._waiting) >= self._least_rows:
            self.flush()

    def flush(self) -> None:
        """Add the rows that wait to the moments. Call it after the last row."""
        if not self._waiting:
            return
        xs, ys, groups = zip(*self._waiting, strict=True)
        self._waiting = []
        group = _joined(groups)
        counts = group.bincount(minlength=len(self._groups)).tolist()
        order = group.argsort(stable=True) if max(counts) < len(group) else None
        for moments, count, rows_x, rows_y in zip(
            self._groups, counts, _split(xs, order, counts), _split(ys, order, counts), strict=True
        ):
            if count:
                moments.update(rows_x, rows_y)


def _split(parts: Sequence[Rows], order: Tensor | None, counts: list[int]) -> list[Rows]:
    """The rows of all parts, in this order and then by group."""
    layers = [_by_layer(part) for part in parts]
    groups: list[dict[int, Tensor]] = [{} for _ in counts]
    for layer in layers[0]:
        rows = _joined([part[layer] for part in layers])
        if order is not None:
            rows = rows.index_select(0, order.to(rows.device))
        for group, some in zip(groups, torch.split(rows, counts), strict=True):
            group[layer] = some
    of_one = isinstance(parts[0], Tensor)
    return [cast("Rows", group[0] if of_one else group) for group in groups]


def _by_layer(rows: Tensor | Mapping[int, Tensor]) -> Mapping[int, Tensor]:
    return {0: rows} if isinstance(rows, Tensor) else rows


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])
