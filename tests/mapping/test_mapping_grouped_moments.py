"""Moments of groups of rows from one stream: those of each group's rows alone, in few additions."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrt.mapping import GridMoments, GroupedMoments, Moments, merge_all
from lrt.mapping.grouped_moments import ROWS_A_GROUP
from lrt.mapping.moments import CHUNK_ROWS


def rows(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator) + 3
    return x, x[:, :3] * 2 + torch.randn(n, 3, generator=generator)


def added(x: Tensor, y: Tensor, group: Tensor, groups: int, batch: int) -> list[Moments]:
    moments = [Moments(4, 3) for _ in range(groups)]
    stream = GroupedMoments(moments)
    for part in zip(x.split(batch), y.split(batch), group.split(batch), strict=True):
        stream.add(*part)
    stream.flush()
    return moments


@settings(max_examples=20, deadline=None)
@given(
    groups=st.integers(1, 30), n=st.integers(1, 9000), batch=st.integers(50, 9000), seed=st.integers(0, 99)
)
def test_each_group_has_the_moments_of_its_rows(groups: int, n: int, batch: int, seed: int) -> None:
    x, y = rows(n, seed)
    group = torch.randint(groups, (n,), generator=torch.Generator().manual_seed(seed))
    for number, moments in enumerate(added(x, y, group, groups, batch)):
        mine = group == number
        assert moments.count == int(mine.sum())
        if moments.count:
            alone = Moments(4, 3, products="float64")
            alone.update(x[mine], y[mine])
            torch.testing.assert_close(moments.scatter_xy, alone.scatter_xy, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(moments.mean_y, alone.mean_y, rtol=1e-6, atol=1e-6)


def test_batches_of_a_store_are_added_at_once() -> None:
    """So the sums are those of adding each batch's rows of a group by themselves, to the bit."""
    x, y = rows(20_000)
    group = torch.arange(20_000) // 7 % 10
    expected = [Moments(4, 3) for _ in range(10)]
    for some_x, some_y, of in zip(x.split(8192), y.split(8192), group.split(8192), strict=True):
        for number, moments in enumerate(expected):
            moments.update(some_x[of == number], some_y[of == number])
    for one, other in zip(added(x, y, group, 10, 8192), expected, strict=True):
        assert all(map(torch.equal, one.tensors().values(), other.tensors().values()))


@pytest.mark.parametrize(("groups", "batch"), [(1, 64), (10, 512), (100, 8192)])
def test_however_small_the_batches_the_sums_are_rarely_touched(groups: int, batch: int) -> None:
    """What an addition costs beside its products is a pass over the whole sums."""
    n = 60_000
    x, y = rows(n)
    group = torch.arange(n) // 20 % groups
    with mock.patch.object(Moments, "_add_chunk", autospec=True) as chunk:
        added(x, y, group, groups, batch)
    assert sum(len(call.args[1]) for call in chunk.call_args_list) == n
    assert chunk.call_count <= groups * (1 + n / max(CHUNK_ROWS, ROWS_A_GROUP * groups))


def test_a_group_is_left_out_by_merging_the_others() -> None:
    x, y = rows(6000)
    group = torch.arange(6000) // 50 % 40
    groups = added(x, y, group, 40, 1000)
    rest = merge_all([moments for number, moments in enumerate(groups) if number != 7])
    alone = Moments(4, 3)
    alone.update(x[group != 7], y[group != 7])
    torch.testing.assert_close(rest.scatter_xx, alone.scatter_xx, rtol=1e-5, atol=1e-2)


def test_rows_without_a_group_are_refused() -> None:
    x, y = rows(5)
    stream = GroupedMoments([Moments(4, 3), Moments(4, 3)])
    for group in (torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, -1, 0, 0, 0]), torch.zeros(4).long()):
        with pytest.raises(ValueError, match="from 0 to 1"):
            stream.add(x, y, group)
    with pytest.raises(ValueError, match="at least one"):
        GroupedMoments([])


@pytest.mark.parametrize("batch", [100, 8192])
def test_rows_by_layer_are_added_to_the_grid_of_their_group(batch: int) -> None:
    x, y = rows(9000)
    group = torch.randint(3, (9000,), generator=torch.Generator().manual_seed(1))
    grids = [GridMoments((0, 7), 4, (2,), 3) for _ in range(4)]  # the last has no rows
    stream = GroupedMoments(grids)
    for some_x, some_y, of in zip(x.split(batch), y.split(batch), group.split(batch), strict=True):
        stream.add({0: some_x, 7: -some_x}, {2: some_y}, of)
    stream.flush()
    alone = added(x, y, group, 4, batch)
    for grid, moments in zip(grids, alone, strict=True):
        assert grid.count == moments.count
        if grid.count:
            torch.testing.assert_close(grid.pair(0, 2).scatter_xy, moments.scatter_xy, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(grid.pair(7, 2).scatter_xy, -moments.scatter_xy, rtol=1e-5, atol=1e-5)
