from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import Moments
from lrt.mapping.parametrisations import random_semi_orthogonal
from lrt.mapping.procrustes import polar, procrustes

WIDTHS = [(6, 6), (5, 8), (8, 5)]


def gathered(x: Tensor, y: Tensor) -> Moments:
    moments = Moments(x.shape[1], y.shape[1], products="float64")
    moments.update(x, y)
    return moments


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def draw(d_source: int, d_target: int, *, spread: float = 2.0, n: int = 200) -> tuple[Tensor, Tensor]:
    """Rows of no orthogonal map at all; source deviations fall by `10 ** spread`."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(normal(generator, d_source, d_source)).Q
    deviations = torch.logspace(0, -spread, d_source, dtype=torch.float64)
    x = normal(generator, n, d_source) * deviations @ basis.T + 2
    weight = normal(generator, d_target, d_source)
    return x, x @ weight.T + 0.3 * normal(generator, n, d_target) - 1


def squared_error(
    narrow: Tensor,  # Q, [d_target, d_source]
    x: Tensor,
    y: Tensor,
) -> Tensor:
    """At the best scale for this `Q`, from the rows."""
    image = x @ narrow.T
    return (image * ((image * y).sum() / image.square().sum()) - y).square().sum()


@pytest.mark.parametrize("bias", [True, False])
def test_equals_scipy_where_widths_agree(bias):
    x, y = draw(6, 6)
    fit = procrustes(gathered(x, y), bias=bias)
    seen_x, seen_y = (x - x.mean(0), y - y.mean(0)) if bias else (x, y)
    rotation, nuclear = scipy.linalg.orthogonal_procrustes(seen_x.numpy(), seen_y.numpy())
    scale = nuclear / float(seen_x.square().sum())
    assert fit.exact
    assert fit.converged
    assert (fit.iterations, fit.scale) == (0, pytest.approx(scale, rel=1e-9))
    torch.testing.assert_close(fit.map.weight, scale * torch.from_numpy(rotation).T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("bias", [True, False])
def test_planted_map_is_recovered(widths, bias):
    d_source, d_target = widths
    generator = torch.Generator().manual_seed(3)
    truth = random_semi_orthogonal(d_target, d_source, generator).double()
    x = normal(generator, 400, d_source) * torch.linspace(1, 3, d_source) + 1
    offset = 4 * normal(generator, d_target) if bias else torch.zeros(d_target).double()
    fit = procrustes(gathered(x, 1.7 * x @ truth.T + offset), bias=bias, tolerance=1e-8)
    assert fit.exact == (d_source <= d_target)
    assert fit.converged
    # random_semi_orthogonal is float32.
    assert fit.scale == pytest.approx(1.7, rel=1e-6)
    torch.testing.assert_close(fit.map.weight, 1.7 * truth, rtol=0, atol=3e-6)
    torch.testing.assert_close(fit.map.bias, offset, rtol=0, atol=1e-5)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_map_is_a_scaled_semi_orthogonal_one_with_its_fvu(widths, bias):
    train = gathered(*draw(*widths))
    fit = procrustes(train, bias=bias)
    narrow = fit.map.weight if widths[0] >= widths[1] else fit.map.weight.T
    gram = narrow @ narrow.T / fit.scale**2
    torch.testing.assert_close(gram, torch.eye(min(widths), dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(fit.history[-1]) == pytest.approx(train.fvu_of(fit.map), rel=1e-9)
    assert len(fit.history) == fit.iterations + 1
    if not bias:
        assert fit.map.bias.abs().max() == 0


@pytest.mark.parametrize("widths", WIDTHS)
def test_first_order_optimality_on_the_rows(widths):
    x, y = draw(*widths)
    fit = procrustes(gathered(x, y), tolerance=1e-8)
    x, y = x - x.mean(0), y - y.mean(0)
    rotation = (fit.map.weight / fit.scale).requires_grad_()
    scale = torch.tensor(fit.scale, dtype=torch.float64, requires_grad=True)
    fvu = (scale * x @ rotation.T - y).square().sum() / y.square().sum()
    of_rotation, of_scale = torch.autograd.grad(fvu, (rotation, scale))
    assert of_scale.abs() < 1e-8
    # The part of the gradient that a turn can follow; the rest would leave the manifold.
    Q, G = (rotation.T, of_rotation.T) if widths[0] > widths[1] else (rotation, of_rotation)
    inner = Q.T @ G
    along = G - Q @ (inner + inner.T) / 2
    assert along.norm() < 2e-8
    assert of_rotation.norm() > 1e-3


@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize("widths", WIDTHS)
def test_never_worse_than_random_and_neighbouring_maps(widths, spread):
    x, y = draw(*widths, spread=spread)
    fit = procrustes(gathered(x, y))
    assert fit.converged
    x, y = x - x.mean(0), y - y.mean(0)
    best = fit.map.weight / fit.scale
    least = squared_error(best, x, y)
    generator = torch.Generator().manual_seed(9)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(60):
            near = polar(best + size * normal(generator, *best.shape))
            assert squared_error(near, x, y) >= least
    for _ in range(200):
        rival = random_semi_orthogonal(widths[1], widths[0], generator).double()
        assert squared_error(rival, x, y) >= least


@pytest.mark.parametrize("spread", [0.5, 2.0, 3.0])
def test_a_wider_source_is_iterated_and_never_goes_up(spread):
    x, y = draw(12, 5, spread=spread)
    fit = procrustes(gathered(x, y))
    assert not fit.exact
    assert fit.converged
    assert fit.iterations > 1
    assert (fit.history.diff() <= 0).all()
    assert fit.history[-1] < fit.history[0] - 1e-3


def test_iterations_end_at_their_limit_or_tolerance():
    train = gathered(*draw(12, 5))
    short = procrustes(train, iterations=2)
    assert not short.converged
    assert short.iterations == 2
    longer = procrustes(train)
    torch.testing.assert_close(short.history, longer.history[:3])
    assert procrustes(train, tolerance=1e-2).iterations < longer.iterations


def test_uncorrelated_rows_get_scale_zero():
    x = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    y = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    fit = procrustes(gathered(x, y))
    assert fit.scale == 0
    assert gathered(x, y).fvu_of(fit.map) == pytest.approx(1.0, abs=1e-12)


def test_errors_name_what_is_wrong():
    x, y = draw(5, 8)
    with pytest.raises(InvalidValue):
        procrustes(gathered(torch.ones(9, 5), y[:9]))
    with pytest.raises(InvalidValue):
        procrustes(gathered(x[:9], torch.ones(9, 8)))
    with pytest.raises(ValueError, match="got 0 and 1e-06"):
        procrustes(gathered(x, y), iterations=0)
    with pytest.raises(ValueError, match="got 5 and 0"):
        procrustes(gathered(x, y), iterations=5, tolerance=0.0)
