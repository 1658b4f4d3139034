from __future__ import annotations

from importlib import import_module

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, MapSpec, Moments, orthogonality_penalty, ridge_at
from lrt.mapping.closed_form import ClosedFormFit, closed_form
from lrt.mapping.procrustes import procrustes

WIDTHS = [(6, 6), (5, 8), (8, 5)]


def gathered(x: Tensor, y: Tensor) -> Moments:
    moments = Moments(x.shape[1], y.shape[1], products="float64")
    moments.update(x, y)
    return moments


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw(d_source: int, d_target: int, n: int = 60, seed: int = 10) -> tuple[Tensor, Tensor]:
    """Few noisy rows off the origin, of a source with condition number 1,000."""
    basis = torch.linalg.qr(normal(0, d_source, d_source)).Q
    deviations = torch.logspace(0, -1.5, d_source, dtype=torch.float64)
    x = normal(seed, n, d_source) * deviations @ basis.T + 0.5
    return x, x @ normal(1, d_target, d_source).T + normal(seed + 1, n, d_target) + 3


def fitted(spec: MapSpec, widths: tuple[int, int], n: int = 60) -> tuple[ClosedFormFit, Moments, Moments]:
    train, validation = gathered(*draw(*widths, n=n)), gathered(*draw(*widths, n=400, seed=20))
    return closed_form(spec, train, validation), train, validation


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "spec",
    [
        MapSpec("full"),
        MapSpec("low_rank", rank=2),
        MapSpec("orthogonal"),
        MapSpec("orthogonal_penalty", penalty=0.1),
    ],
    ids=lambda spec: spec.kind,
)
@pytest.mark.parametrize("widths", WIDTHS)
def test_every_kind_tells_its_validation_fvu_and_honours_the_bias(spec, widths, bias):
    spec = MapSpec(spec.kind, rank=spec.rank, penalty=spec.penalty, bias=bias)
    fit, train, _ = fitted(spec, widths)
    x, y = draw(*widths, n=400, seed=20)
    of_rows = (fit.map.points(x) - y).square().sum() / (y - y.mean(0)).square().sum()
    assert fit.fvu_validation == pytest.approx(float(of_rows), rel=1e-9)
    assert fit.map.weight.dtype == torch.float64
    if bias:
        torch.testing.assert_close(fit.map.points(train.mean_x), train.mean_y)
        assert fit.fvu_validation < 1
    else:
        assert not fit.map.bias.any()
    assert (fit.ridge_weight is None) == (spec.kind in ("orthogonal", "orthogonal_penalty"))


@pytest.mark.parametrize("bias", [True, False])
def test_full_equals_scikit_learn_at_the_chosen_weight(bias):
    fit, *_ = fitted(MapSpec("full", bias=bias), (5, 8))
    x, y = draw(5, 8)
    oracle = Ridge(alpha=fit.ridge_weight, fit_intercept=bias).fit(x.numpy(), y.numpy())
    assert (fit.map.weight - torch.from_numpy(oracle.coef_)).abs().max() < 1e-8
    assert (fit.map.bias - torch.as_tensor(oracle.intercept_)).abs().max() < 1e-8


@pytest.mark.parametrize("widths", WIDTHS)
def test_low_rank_beats_the_cut_ridge_map_and_is_stationary(widths):
    fit, train, _ = fitted(MapSpec("low_rank", rank=2), widths)
    assert fit.ridge_weight is not None
    U, s, Vh = torch.linalg.svd(ridge_at(train, fit.ridge_weight).weight)
    cut = (U[:, :2] * s[:2]) @ Vh[:2]
    x, y = draw(*widths)
    x, y = x - x.mean(0), y - y.mean(0)

    def objective(weight: Tensor) -> Tensor:
        return (x @ weight.T - y).square().sum() + fit.ridge_weight * weight.square().sum()

    best = objective(fit.map.weight)
    assert torch.linalg.matrix_rank(fit.map.weight) == 2
    assert best < 0.999 * objective(cut)
    U, s, Vh = torch.linalg.svd(fit.map.weight)
    factors = ((U[:, :2] * s[:2]).requires_grad_(), Vh[:2].clone().requires_grad_())
    for gradient in torch.autograd.grad(objective(factors[0] @ factors[1]), factors):
        assert gradient.abs().max() < 1e-9 * best


def penalised(affine: AffineMap, penalty: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient fit's loss without its ridge, from the rows, and its gradients."""
    weight, bias = affine.weight.clone().requires_grad_(), affine.bias.clone().requires_grad_()
    fvu = (x @ weight.T + bias - y).square().sum() / (y - y.mean(0)).square().sum()
    loss = fvu + penalty * orthogonality_penalty(weight)
    return loss.detach(), *torch.autograd.grad(loss, (weight, bias))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("widths", WIDTHS)
def test_the_penalised_map_is_stationary_on_the_rows_and_beats_both_its_limits(widths, penalty, bias):
    fit, train, _ = fitted(MapSpec("orthogonal_penalty", penalty=penalty, bias=bias), widths)
    rows = draw(*widths)
    loss, of_weight, of_bias = penalised(fit.map, penalty, *rows)
    assert of_weight.norm() < 2e-6
    assert not bias or of_bias.norm() < 1e-12
    for limit in (procrustes(train, bias=bias).map, ridge_at(train, 0.0, bias=bias)):
        reached, off, _ = penalised(limit, penalty, *rows)
        assert loss < reached
        assert off.norm() > 1e-4
    assert "no closed form" in fit.note
    assert "LBFGS" in fit.note


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_penalty_leads_from_least_squares_to_procrustes(widths):
    x, y = draw(*widths)
    train = gathered(x, y)
    defects = []
    for penalty in (1e-6, 0.1, 300.0):
        fit = closed_form(MapSpec("orthogonal_penalty", penalty=penalty), train, train)
        defects.append(float(orthogonality_penalty(fit.map.weight)))
        if penalty == 1e-6:
            assert fit.fvu_validation == pytest.approx(train.fvu_of(ridge_at(train, 0.0)), rel=1e-4)
    assert defects[0] > 3 * defects[1] > 300 * defects[2]
    assert fit.fvu_validation == pytest.approx(train.fvu_of(procrustes(train).map), rel=0.01)


def test_the_same_map_comes_out_every_time():
    spec = MapSpec("orthogonal_penalty", penalty=0.1)
    assert torch.equal(fitted(spec, (8, 5))[0].map.weight, fitted(spec, (8, 5))[0].map.weight)


def test_notes_say_what_is_exact():
    assert "exact" in fitted(MapSpec("full"), (5, 8))[0].note
    assert "at rank 3" in fitted(MapSpec("low_rank", rank=3), (5, 8))[0].note
    assert fitted(MapSpec("orthogonal"), (5, 8))[0].note == "Procrustes with scale, exact"
    iterated = fitted(MapSpec("orthogonal"), (8, 5))[0].note
    assert "no closed form for widths 8 -> 5" in iterated
    assert "stationary point" in iterated


def test_fewer_rows_than_source_dimensions_are_taken_by_every_kind():
    for spec in (
        MapSpec("full"),
        MapSpec("low_rank", rank=2),
        MapSpec("orthogonal"),
        MapSpec("orthogonal_penalty", penalty=0.1),
    ):
        fit, train, _ = fitted(spec, (8, 5), n=6)
        assert train.fvu_of(fit.map) < 1
    with pytest.raises(InvalidValue):
        ridge_at(train, 0.0)


def test_errors_name_what_is_wrong(monkeypatch):
    train = gathered(*draw(5, 8))
    with pytest.raises(InvalidValue, match=r"map\.rank"):
        closed_form(MapSpec("low_rank", rank=6), train, train)
    with pytest.raises(InvalidValue, match=r"map\.penalty"):
        closed_form(MapSpec("orthogonal_penalty"), train, train)
    with pytest.raises(ValueError, match="training moments are 5 -> 8, validation moments 3 -> 3"):
        closed_form(MapSpec("orthogonal"), train, Moments(3, 3))
    flat = gathered(torch.ones(9, 5), torch.ones(9, 8))
    for spec in (MapSpec("full"), MapSpec("orthogonal"), MapSpec("low_rank", rank=2)):
        with pytest.raises(InvalidValue):
            closed_form(spec, flat, train)
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    unpaired = gathered(x, torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]]))
    spec = MapSpec("orthogonal_penalty", penalty=0.1)
    with pytest.raises(InvalidValue):
        closed_form(spec, unpaired, unpaired)
    monkeypatch.setattr(import_module("lrt.mapping.closed_form"), "PENALTY_STEPS", 10)
    with pytest.raises(RuntimeError, match=r"map\.penalty"):
        closed_form(spec, train, train)
