from __future__ import annotations

import torch

from lrt.mapping import Moments, ShuffledPairs, ridge_path


def rows(n: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return x, 3 * x[:, :3] + 1


def shuffled(window_rows: int, seed: int = 0, batch: int = 50) -> list[Moments]:
    draws = [Moments(4, 3), Moments(4, 3)]
    pairs = ShuffledPairs(draws, window_rows, seed)
    for x, y in zip(*(part.split(batch) for part in rows()), strict=True):
        pairs.add(x, y)
    pairs.flush()
    pairs.flush()  # nothing is left
    return draws


def test_every_row_counts_once_and_pairs_are_broken() -> None:
    x, y = rows()
    paired = Moments(4, 3)
    paired.update(x, y)
    for moments in shuffled(window_rows=170):
        assert moments.count == 600
        for name in ("mean_x", "mean_y", "scatter_xx", "scatter_yy"):
            torch.testing.assert_close(getattr(moments, name), getattr(paired, name), rtol=1e-4, atol=1e-2)
        assert moments.fvu_of(ridge_path(moments, moments).map) > 0.9
    assert paired.fvu_of(ridge_path(paired, paired).map) < 1e-6


def test_targets_stay_within_their_window() -> None:
    # with windows of one batch that has equal rows a permutation changes nothing
    x = torch.arange(12.0).div(3, rounding_mode="floor")[:, None]
    moments, paired = Moments(1, 1), Moments(1, 1)
    pairs = ShuffledPairs([moments], 3, 0)
    for part in x.split(3):
        pairs.add(part, part)
    paired.update(x, x)
    torch.testing.assert_close(moments.scatter_xy, paired.scatter_xy)


def test_the_seed_decides_and_draws_differ() -> None:
    one, again, other = shuffled(200), shuffled(200), shuffled(200, seed=1)
    assert torch.equal(one[0].scatter_xy, again[0].scatter_xy)
    assert not torch.equal(one[0].scatter_xy, other[0].scatter_xy)
    assert not torch.equal(one[0].scatter_xy, one[1].scatter_xy)
