from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, Moments, SharedRidge, ridge_at, ridge_path
from lrt.mapping.reduced_rank import reduced_rank_fit, reduced_rank_of, reduced_rank_path
from lrt.mapping.ridge import RELATIVE_WEIGHTS

# A source narrower than the target, wider, and as wide: the decomposition is on the smaller side.
WIDTHS = [(6, 9), (9, 6), (7, 7)]
WEIGHT = 3.0


def gathered(x: Tensor, y: Tensor) -> Moments:
    moments = Moments(x.shape[1], y.shape[1], products="float64")
    moments.update(x, y)
    return moments


def draw(d_source: int, d_target: int, n: int = 80, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy rows whose source directions differ in variance by a factor of 10,000."""
    plan = torch.Generator().manual_seed(1)
    spread = torch.logspace(0, -2, d_source, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(d_source, d_source, dtype=torch.float64, generator=plan)).Q
    weight = torch.randn(d_target, d_source, dtype=torch.float64, generator=plan)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d_source, dtype=torch.float64, generator=generator) * spread @ basis.T + 2
    noise = torch.randn(n, d_target, dtype=torch.float64, generator=generator)
    return x, x @ weight.T + 0.5 * noise - 1


def with_ridge_rows(x: Tensor, y: Tensor, weight: float, bias: bool) -> tuple[Tensor, Tensor]:
    """Rows on which plain least squares is the ridge regression."""
    if bias:
        x, y = x - x.mean(0), y - y.mean(0)
    d_source = x.shape[1]
    ridge = weight**0.5 * torch.eye(d_source, dtype=x.dtype)
    return torch.cat([x, ridge]), torch.cat([y, y.new_zeros(d_source, y.shape[1])])


def objective(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (x @ weight.T - y).square().sum()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", WIDTHS)
def test_full_rank_is_the_ridge_map(widths, bias):
    train = gathered(*draw(*widths))
    for weight in (0.0, 1e-3, WEIGHT):
        full = reduced_rank_path(train, weight, bias=bias)
        assert full.weight == weight
        found, wanted = full.map(full.max_rank), ridge_at(train, weight, bias=bias)
        torch.testing.assert_close(found.weight, wanted.weight, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(found.bias, wanted.bias, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", WIDTHS)
def test_every_rank_equals_least_squares_on_rows_projected_on_the_images(widths, bias):
    x, y = draw(*widths)
    reduced = reduced_rank_path(gathered(x, y), WEIGHT, bias=bias)
    rows, targets = (part.numpy() for part in with_ridge_rows(x, y, WEIGHT, bias))
    solution = np.linalg.lstsq(rows, targets, rcond=None)[0]
    right = np.linalg.svd(rows @ solution)[2]
    for rank in range(1, reduced.max_rank + 1):
        wanted = (solution @ right[:rank].T @ right[:rank]).T
        found = reduced.map(rank)
        assert np.abs(found.weight.numpy() - wanted).max() < 1e-9
        assert np.linalg.matrix_rank(found.weight.numpy()) == rank
        at_mean = found.points(x.mean(0)) - y.mean(0)
        assert (at_mean if bias else found.bias).abs().max() < 1e-12


@pytest.mark.parametrize("widths", WIDTHS)
def test_no_map_of_the_same_rank_does_better(widths):
    x, y = draw(*widths)
    reduced = reduced_rank_path(gathered(x, y), WEIGHT)
    rows, targets = with_ridge_rows(x, y, WEIGHT, bias=True)
    generator = torch.Generator().manual_seed(2)
    for rank in (1, 3):
        best = reduced.map(rank).weight
        least = objective(best, rows, targets)
        for _ in range(100):
            # Any target space, with the best map into it: a far stronger rival than a random matrix.
            space = torch.randn(widths[1], rank, dtype=torch.float64, generator=generator)
            space = torch.linalg.qr(space).Q
            ridge = torch.linalg.lstsq(rows, targets).solution.T
            assert objective(space @ space.T @ ridge, rows, targets) > least
        up, down = reduced.up[:, :rank].clone(), reduced.down[:rank].clone()
        up.requires_grad_()
        down.requires_grad_()
        for gradient in torch.autograd.grad(objective(up @ down, rows, targets), (up, down)):
            assert gradient.abs().max() < 1e-9 * least


def test_cutting_the_ridge_map_itself_is_strictly_worse():
    x, y = draw(9, 6)
    # The least source directions carry the largest weights and next to no variance.
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    loud = 2.0 * torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    y = y + (x - x.mean(0)) @ vectors[:, :2] @ (loud / values[:2].sqrt() * 0.3).T
    train = gathered(x, y)
    reduced = reduced_rank_path(train, 1e-6)
    ridge = ridge_at(train, 1e-6)
    U, s, Vh = torch.linalg.svd(ridge.weight)
    for rank in (1, 2, 3, 4):
        cut = (U[:, :rank] * s[:rank]) @ Vh[:rank]
        truncated = AffineMap(cut, train.mean_y - cut @ train.mean_x)
        assert train.fvu_of(reduced.map(rank)) < train.fvu_of(truncated) - 0.02
    whole = AffineMap(U @ torch.diag(s) @ Vh[:6], ridge.bias)
    assert train.fvu_of(reduced.map(6)) == pytest.approx(train.fvu_of(whole), rel=1e-9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", WIDTHS)
def test_the_curve_is_the_fvu_of_each_map_on_any_rows(widths, bias):
    train, other = gathered(*draw(*widths)), gathered(*draw(*widths, n=50, seed=7))
    reduced = reduced_rank_path(train, WEIGHT, bias=bias)
    for moments in (train, other):
        curve = reduced.fvu(moments)
        assert curve.shape == (min(widths),)
        wanted = [moments.fvu_of(reduced.map(rank)) for rank in range(1, min(widths) + 1)]
        torch.testing.assert_close(curve, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert (reduced.fvu(train).diff() <= 1e-12).all()


@pytest.mark.parametrize("widths", [(12, 20), (20, 12)])
def test_planted_rank_is_recovered(widths):
    d_source, d_target = widths
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    truth = normal(d_target, 3) @ normal(3, d_source)
    halves = []
    for n in (2000, 500):
        x = normal(n, d_source) + 4
        halves.append(gathered(x, x @ truth.T + 0.3 * normal(n, d_target)))
    train, validation = halves
    reduced = reduced_rank_path(train, 1e-3)
    assert int(reduced.fvu(validation).argmin()) == 2
    assert reduced.rank_for(validation, 0.999) == 3
    assert reduced.rank_for(validation, 0.1) == 1
    assert (reduced.map(3).weight - truth).norm() < 0.01 * truth.norm()
    # Two ranks do not hold the plant, so that three are no accident.
    assert reduced.fvu(validation)[1] > 3 * reduced.fvu(validation)[2]


def test_the_share_is_of_what_the_full_rank_explains():
    train, other = gathered(*draw(9, 6)), gathered(*draw(9, 6, n=50, seed=7))
    reduced = reduced_rank_path(train, WEIGHT)
    explained = 1 - reduced.fvu(other)
    for share in (0.2, 0.8, 0.95, 1.0):
        rank = reduced.rank_for(other, share)
        assert explained[rank - 1] >= share * explained[-1]
        assert rank == 1 or (explained[: rank - 1] < share * explained[-1]).all()
    for share in (0.0, 1.01):
        with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
            reduced.rank_for(other, share)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [(8, 12), (12, 8)])
def test_the_weight_is_the_best_of_the_path_at_that_rank(widths, bias):
    # Fewer rows than source dimensions, so that the weight matters.
    train, validation = gathered(*draw(*widths, n=10)), gathered(*draw(*widths, n=400, seed=3))
    scatter = (train if bias else train.about_origin()).scatter_xx
    weights = RELATIVE_WEIGHTS * float(scatter.trace()) / widths[0]
    curves = torch.stack(
        [reduced_rank_path(train, float(w), bias=bias).fvu(validation) for w in weights]
    )  # [89, max_rank]
    for rank in (1, 3, 8):
        fit = reduced_rank_fit(train, validation, rank, bias=bias)
        column = curves[:, rank - 1]
        assert fit.weight == pytest.approx(float(weights[int(column.argmin())]), rel=1e-12)
        assert validation.fvu_of(fit.map(rank)) == pytest.approx(float(column.min()), rel=1e-8)
        # Neither end of the path, where any rule would land.
        assert 0 < int(column.argmin()) < len(weights) - 1
    full = reduced_rank_fit(train, validation, 8, bias=bias)
    assert full.weight == pytest.approx(ridge_path(train, validation, bias=bias).weight, rel=1e-12)


def test_errors_name_what_is_wrong():
    train = gathered(*draw(9, 6))
    reduced = reduced_rank_path(train, WEIGHT)
    for rank in (0, 7):
        with pytest.raises(InvalidValue, match=r"map\.rank"):
            reduced.map(rank)
        with pytest.raises(InvalidValue, match=r"map\.rank"):
            reduced_rank_fit(train, train, rank)
    for weight in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"at least 0, got {weight}"):
            reduced_rank_path(train, weight)
    short = gathered(*draw(9, 6, n=5))
    with pytest.raises(InvalidValue):
        reduced_rank_path(short, 0.0)
    with pytest.raises(ValueError, match=r"the fit is 9 -> 6, .* 3 -> 3"):
        reduced.fvu(Moments(3, 3))
    with pytest.raises(ValueError, match=r"the fit is 9 -> 6, .* 3 -> 3"):
        reduced_rank_fit(train, Moments(3, 3), 2)
    flat = gathered(torch.ones(5, 9), torch.ones(5, 6))
    with pytest.raises(InvalidValue):
        reduced_rank_path(flat, WEIGHT)
    with pytest.raises(InvalidValue):
        reduced.fvu(flat)


def test_a_map_worse_than_the_mean_has_no_rank_that_explains():
    x, y = draw(9, 6)
    assert reduced_rank_path(gathered(x, 2 * y.mean(0) - y), WEIGHT).rank_for(gathered(x, y)) is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", WIDTHS)
def test_a_shared_decomposition_gives_the_same_maps(widths, bias):
    train, validation = gathered(*draw(*widths)), gathered(*draw(*widths, n=50, seed=7))
    shared = SharedRidge(train, validation, bias=bias)
    of_shared = reduced_rank_of(shared, train, WEIGHT)
    alone = reduced_rank_path(train, WEIGHT, bias=bias)
    for rank in range(1, alone.max_rank + 1):
        torch.testing.assert_close(of_shared.map(rank).weight, alone.map(rank).weight)
        torch.testing.assert_close(of_shared.map(rank).bias, alone.map(rank).bias)
    with pytest.raises(ValueError, match="SharedRidge"):
        reduced_rank_of(shared, validation, WEIGHT)
