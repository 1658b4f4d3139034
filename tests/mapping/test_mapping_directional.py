from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from summed_rows import moments_of

from lrt.mapping import AffineMap, directions_along, ridge_path, ridge_per_direction


@pytest.fixture(scope="module")
def draw():
    """Targets whose first directions are nearly without noise and whose last are little else."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 20, dtype=torch.float64, generator=generator)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    noise = torch.tensor([0.1, 0.3, 1.0, 8.0, 20.0, 40.0], dtype=torch.float64)

    def rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(n, 20, dtype=torch.float64, generator=generator) + 3
        e = torch.randn(n, 6, dtype=torch.float64, generator=generator) * noise
        return x, x @ weight.T + e @ turn.T - 2

    return rows


@pytest.mark.parametrize("bias", [True, False])
def test_equals_scikit_learn_with_a_weight_for_each_direction(draw, bias) -> None:
    (x, y), validation = draw(60), moments_of(*draw(3000))
    found = ridge_per_direction(moments_of(x, y), validation, 10.0, bias=bias)
    oracle = Ridge(alpha=found.weights.numpy(), fit_intercept=bias).fit(x.numpy(), (y @ found.basis).numpy())
    weight = found.basis @ torch.from_numpy(oracle.coef_)
    assert (found.map.weight - weight).abs().max() < 1e-8
    if bias:
        assert (found.map.bias - found.basis @ torch.from_numpy(oracle.intercept_)).abs().max() < 1e-7
    assert found.fvu_validation == pytest.approx(validation.fvu_of(found.map), rel=1e-9)
    again = directions_along(moments_of(x, y), found.basis, found.weights, torch.eye(20), bias=bias)
    assert (again.T - found.map.weight).abs().max() < 1e-10


def test_every_direction_has_the_weight_that_is_best_for_it(draw) -> None:
    (x, y), (held_x, held_y) = draw(60), draw(3000)
    found = ridge_per_direction(moments_of(x, y), moments_of(held_x, held_y), 10.0)
    path = torch.logspace(-3, 4, 29, dtype=torch.float64) * 10
    for column in range(6):
        one = ridge_path(
            moments_of(x, y @ found.basis[:, column : column + 1]),
            moments_of(held_x, held_y @ found.basis[:, column : column + 1]),
            path,
        )
        assert float(found.weights[column]) == pytest.approx(one.weight)
    assert float(found.weights.max()) > 10 * float(found.weights.min())


def test_it_is_better_than_one_weight_on_rows_that_chose_neither(draw) -> None:
    train, validation, test = (moments_of(*draw(n)) for n in (60, 3000, 3000))
    one = ridge_path(train, validation)
    each = ridge_per_direction(train, validation, one.weight)
    assert test.fvu_of(each.map) < 0.98 * test.fvu_of(one.map)
    assert each.fvu_validation <= one.fvu_validation * (1 + 1e-9)


def test_targets_of_other_sources_are_not_made_up(draw) -> None:
    (x, y), validation = draw(60), draw(3000)
    found = ridge_per_direction(moments_of(x, y), moments_of(*validation), 10.0)
    permuted = y[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    weight = directions_along(moments_of(x, permuted), found.basis, found.weights, torch.eye(20)).T
    null = AffineMap(weight.contiguous(), y.mean(0) - weight @ x.mean(0))
    assert moments_of(*validation).fvu_of(null) > 0.95


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_a_scale_of_nothing_is_refused(draw, weight) -> None:
    rows = moments_of(*draw(60))
    with pytest.raises(ValueError, match="must be above 0"):
        ridge_per_direction(rows, rows, weight)
