from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from summed_rows import moments_of

from lrt.errors import InvalidValue
from lrt.mapping import Moments, ridge_at, ridge_directions, ridge_path


@pytest.fixture(scope="module")
def few_rows():
    """40 rows of 12 noisy dimensions: little enough that the ridge weight matters."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 12, dtype=torch.float64, generator=generator)

    def draw(n: int):
        x = torch.randn(n, 12, dtype=torch.float64, generator=generator) + 4
        noise = torch.randn(n, 5, dtype=torch.float64, generator=generator)
        return x, x @ weight.T + 6 * noise - 2

    return draw(40), draw(4000)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weight", [1e-3, 1.0, 300.0])
def test_equals_scikit_learn(few_rows, weight, bias):
    (x, y), validation = few_rows
    oracle = Ridge(alpha=weight, fit_intercept=bias).fit(x.numpy(), y.numpy())
    at = ridge_at(moments_of(x, y), weight, bias=bias)
    along = ridge_path(moments_of(x, y), moments_of(*validation), [weight], bias=bias).map
    for found in (at, along):
        assert (found.weight - torch.from_numpy(oracle.coef_)).abs().max() < 1e-8
        assert (found.bias - torch.as_tensor(oracle.intercept_)).abs().max() < 1e-8


@pytest.mark.parametrize("bias", [True, False])
def test_the_curve_is_the_validation_fvu_of_each_refit(few_rows, bias):
    train, validation = moments_of(*few_rows[0]), moments_of(*few_rows[1])
    fit = ridge_path(train, validation, bias=bias)
    assert len(fit.weights) == len(fit.curve) == 89
    for index in (0, 40, 60, 88):
        refit = ridge_at(train, float(fit.weights[index]), bias=bias)
        assert float(fit.curve[index]) == pytest.approx(validation.fvu_of(refit), rel=1e-9)
    assert fit.fvu_validation == float(fit.curve.min()) == pytest.approx(validation.fvu_of(fit.map), rel=1e-9)


def test_validation_finds_a_weight_better_than_both_ends(few_rows):
    fit = ridge_path(moments_of(*few_rows[0]), moments_of(*few_rows[1]))
    assert fit.fvu_validation < 0.95 * float(fit.curve[0])
    assert fit.fvu_validation < 0.95 * float(fit.curve[-1])
    assert float(fit.weights[0]) < fit.weight < float(fit.weights[-1])


def test_planted_map_is_recovered_from_enough_rows(planted):
    error = (planted.reference_ridge.map.weight - planted.truth.weight).norm()
    assert error < 0.1 * planted.truth.weight.norm()
    assert planted.reference_ridge.fvu_validation == pytest.approx(
        planted.validation_moments.fvu_of(planted.truth), rel=0.01
    )


def test_first_order_optimality():
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 60, 6, dtype=torch.float64, generator=generator)
    fit = ridge_at(moments_of(x, y), 2.0)
    weight = fit.weight.clone().requires_grad_()
    bias = fit.bias.clone().requires_grad_()
    loss = (x @ weight.T + bias - y).square().sum() + 2.0 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 1e-10


def test_shuffled_pairs_explain_nothing(planted):
    x, y = planted.train
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    shuffled = moments_of(x, y[order])
    null = ridge_at(shuffled, planted.reference_ridge.weight)
    assert 1.0 <= planted.validation_moments.fvu_of(null) < 1.01
    assert planted.reference_ridge.fvu_validation < 0.5


def test_rank_deficient_rows_need_a_ridge(few_rows):
    (x, y), validation = few_rows
    short = moments_of(x[:6], y[:6])
    with pytest.raises(InvalidValue):
        ridge_at(short, 0.0)
    oracle = Ridge(alpha=0.5).fit(x[:6].numpy(), y[:6].numpy())
    assert (ridge_at(short, 0.5).weight - torch.from_numpy(oracle.coef_)).abs().max() < 1e-8
    # On the path, weight zero means the least-norm solution.
    least = ridge_path(short, moments_of(*validation), [0.0]).map
    torch.testing.assert_close(least.points(x[:6]), y[:6], rtol=0, atol=1e-8)


def test_errors_name_what_is_wrong(few_rows):
    train = moments_of(*few_rows[0])
    with pytest.raises(ValueError, match="at least 0, got -1"):
        ridge_at(train, -1.0)
    with pytest.raises(ValueError, match=r"ridge weights"):
        ridge_path(train, train, [])
    with pytest.raises(ValueError, match=r"ridge weights"):
        ridge_path(train, train, [1.0, -2.0])
    with pytest.raises(ValueError, match="12 -> 5, validation moments 3 -> 3"):
        ridge_path(train, Moments(3, 3))
    constant = moments_of(torch.ones(9, 12), torch.randn(9, 5))
    with pytest.raises(InvalidValue):
        ridge_path(constant, train)


@pytest.mark.parametrize("bias", [True, False])
def test_directions_without_the_map_are_the_maps(bias) -> None:
    generator = torch.Generator().manual_seed(21)
    x, y, v = (torch.randn(size, generator=generator) for size in ((300, 12), (300, 7), (3, 12)))
    train = moments_of(x + 2, y + x[:, :7])
    for weight in (0.0, 5.0, 1e4):
        whole = ridge_at(train, weight, bias=bias).directions(v)
        assert (ridge_directions(train, weight, v, bias=bias) - whole).abs().max() < 1e-9
