from __future__ import annotations

import pytest
import torch
from summed_rows import moments_of

from lrt.mapping import AffineMap, Moments, rank_curve, reduced_rank_path, ridge_path


def planted(sign: float = 1.0) -> tuple[Moments, Moments, Moments]:
    """Rows of a map 9 -> 6 of rank 3 with noise; the test rows with its sign turned if so wanted."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    weight = normal(6, 3) @ normal(3, 9)
    parts = []
    for n, factor in ((300, 1.0), (200, 1.0), (200, sign)):
        x = normal(n, 9) + 2
        parts.append(moments_of(x, factor * (x - 2) @ weight.T + normal(n, 6) - 1))
    return parts[0], parts[1], parts[2]


@pytest.mark.parametrize("bias", [True, False])
def test_each_rank_has_the_fvu_of_its_map(bias: bool) -> None:
    train, validation, test = planted()
    ridge = ridge_path(train, validation, bias=bias)
    curve = rank_curve(ridge, train, test, bias=bias)
    assert curve.ranks == [1, 2, 4, 6]
    path = reduced_rank_path(train, ridge.weight, bias=bias)
    assert curve.fvu == pytest.approx([test.fvu_of(path.map(rank)) for rank in curve.ranks], rel=1e-9)
    U, s, Vt = torch.linalg.svd(ridge.map.weight, full_matrices=False)
    for rank, fvu in zip(curve.ranks, curve.truncated_fvu, strict=True):
        weight = U[:, :rank] @ torch.diag(s[:rank]) @ Vt[:rank]
        # the truncated map agrees with the ridge map at the training mean
        offset = ridge.map.points(train.mean_x) - weight @ train.mean_x if bias else torch.zeros(6)
        assert fvu == pytest.approx(test.fvu_of(AffineMap(weight, offset.double())), rel=1e-9)
    assert curve.fvu[-1] == pytest.approx(test.fvu_of(ridge.map), rel=1e-6)
    assert curve.truncated_fvu[-1] == pytest.approx(test.fvu_of(ridge.map), rel=1e-9)
    assert curve.rank_95 == path.rank_for(test)


def test_a_map_that_explains_nothing_has_no_rank() -> None:
    train, validation, test = planted(sign=-1.0)
    curve = rank_curve(ridge_path(train, validation), train, test)
    assert curve.fvu[-1] > 1
    assert curve.rank_95 is None
