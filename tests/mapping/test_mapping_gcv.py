from __future__ import annotations

import pytest
import torch

from lrt.errors import InvalidValue
from lrt.mapping import Moments, SharedRidge, ridge_path
from lrt.mapping import gcv_curve as curve_of


def gcv_curve(train: Moments, weights, bias: bool = True) -> torch.Tensor:
    return curve_of(SharedRidge(train, train, bias=bias), train, weights)


def gathered(x, y) -> Moments:
    moments = Moments(x.shape[1], y.shape[1], products="float64")
    moments.update(x, y)
    return moments


def draw(generator: torch.Generator, n: int, repeats: int = 1):
    """Rows of one noisy map; with `repeats`, runs of rows that share nearly all of it, noise too."""
    plan = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 10, dtype=torch.float64, generator=plan)
    x = torch.randn(n // repeats, 10, dtype=torch.float64, generator=generator) + 3
    y = x @ weight.T + 8 * torch.randn(n // repeats, 4, dtype=torch.float64, generator=generator)
    x, y = x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats, 0)
    jitter = 0.01 * torch.randn(x.shape, dtype=torch.float64, generator=generator)
    return x + jitter, y


@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_formula_with_the_hat_matrix(bias):
    x, y = draw(torch.Generator().manual_seed(1), 40)
    weights = [300.0, 0.0, 0.5, 20.0]
    curve = gcv_curve(gathered(x, y), weights, bias=bias)
    n = len(x)
    total = (y - y.mean(0)).square().sum()
    seen = x - x.mean(0) if bias else x
    for weight, found in zip(weights, curve, strict=True):
        ridge = weight * torch.eye(10, dtype=torch.float64)
        hat = seen @ torch.linalg.solve(seen.T @ seen + ridge, seen.T) + (1 / n if bias else 0)
        residual = (y - hat @ y).square().sum()
        wanted = n * residual / (n - hat.trace()) ** 2 / (total / n)
        assert float(found) == pytest.approx(float(wanted), rel=1e-9)


def test_it_agrees_with_held_out_rows_where_rows_are_independent_and_not_where_they_are_runs():
    generator = torch.Generator().manual_seed(2)
    validation = gathered(*draw(generator, 20_000))
    independent, runs = gathered(*draw(generator, 60)), gathered(*draw(generator, 600, repeats=10))
    chosen = {}
    for name, train in (("independent", independent), ("runs", runs)):
        fit = ridge_path(train, validation)
        by_gcv = float(fit.weights[int(gcv_curve(train, fit.weights).argmin())])
        chosen[name] = by_gcv / fit.weight
    # The path has 8 weights a decade.
    assert 0.1 < chosen["independent"] < 10
    assert chosen["runs"] < 0.1 * chosen["independent"]


def test_errors_name_what_is_wrong():
    x, y = draw(torch.Generator().manual_seed(1), 40)
    with pytest.raises(InvalidValue):
        gcv_curve(gathered(x[:9], y[:9]), [1.0, 0.0])
    assert gcv_curve(gathered(x[:9], y[:9]), [1.0]).isfinite().all()
    for weights in ([], [1.0, -1.0], [float("nan")]):
        with pytest.raises(ValueError, match="ridge weights must be"):
            gcv_curve(gathered(x, y), weights)
    with pytest.raises(InvalidValue):
        gcv_curve(gathered(torch.ones(40, 10), y), [1.0])
    with pytest.raises(InvalidValue):
        gcv_curve(gathered(x, torch.ones(40, 4)), [1.0])
