from __future__ import annotations

import pytest
import torch

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, Moments, Whitening, orthogonality_penalty

MODES = ["none", "scale", "full"]


def whitened_cases():
    return [(mode, bias) for mode in MODES for bias in (True, False)]


@pytest.mark.parametrize(("mode", "bias"), whitened_cases())
def test_a_folded_map_does_in_raw_coordinates_what_it_did_in_whitened_ones(planted, mode, bias):
    whitening = Whitening.from_moments(planted.train_moments, mode, bias=bias, l2=1e-3)
    generator = torch.Generator().manual_seed(0)
    inner = AffineMap(
        torch.randn(16, 12, generator=generator),
        torch.randn(16, generator=generator) if bias else torch.zeros(16),
    )
    x = planted.train[0][:200]
    through = whitening.target_back(inner.points(whitening.source(x)))
    folded = whitening.fold(inner)
    gap = (folded.points(x) - through).norm() / through.norm()
    assert gap < 1e-5
    if not bias:
        assert folded.bias.abs().max() == 0
    y = planted.train[1][:200]
    torch.testing.assert_close(whitening.target_back(whitening.target(y)), y, rtol=1e-5, atol=1e-4)
    raw = whitening.raw_weight(inner.weight) * whitening.scale_y
    torch.testing.assert_close(raw.double(), folded.weight, rtol=1e-4, atol=1e-5)
    squares = (inner.weight.square() * whitening.column_cost()).sum()
    wanted = (folded.weight / whitening.scale_y).square().sum()
    assert float(squares) == pytest.approx(float(wanted), rel=1e-4)


def second_moment(rows: torch.Tensor) -> torch.Tensor:
    return rows.double().T @ rows.double() / len(rows)


def test_full_whitening_gives_unit_covariance_where_raw_is_ill_conditioned(planted):
    x, y = planted.train
    covariance = planted.train_moments.scatter_xx / planted.train_moments.count
    assert torch.linalg.cond(covariance) > 5e3
    whitening = Whitening.from_moments(planted.train_moments, "full")
    found = second_moment(whitening.source(x))
    torch.testing.assert_close(found, torch.eye(12).double(), rtol=0, atol=1e-3)
    assert float(second_moment(whitening.target(y)).trace()) == pytest.approx(1.0, rel=1e-4)
    assert float(whitening.gain) == pytest.approx(12**-0.5, rel=1e-3)


def test_with_a_ridge_the_loss_keeps_its_curvature(planted):
    l2 = 0.01
    whitening = Whitening.from_moments(planted.train_moments, "full", l2=l2)
    found = second_moment(whitening.source(planted.train[0])) + l2 * whitening.column_cost().diag()
    torch.testing.assert_close(found, torch.eye(12).double(), rtol=0, atol=1e-3)


def test_scale_keeps_angles_and_bounds_the_curvature(planted):
    whitening = Whitening.from_moments(planted.train_moments, "scale")
    found = second_moment(whitening.source(planted.train[0]))
    assert float(torch.linalg.eigvalsh(found)[-1]) == pytest.approx(1.0, rel=1e-3)
    spread = (1 / found.trace()) ** 0.5
    assert float(whitening.gain) == pytest.approx(float(spread), rel=1e-3)
    rotation = torch.linalg.qr(torch.randn(16, 12, generator=torch.Generator().manual_seed(0))).Q
    folded = whitening.fold(AffineMap(rotation, torch.zeros(16)))
    assert float(orthogonality_penalty(folded.weight)) < 1e-10


def test_directions_without_variance_stay_finite():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 5, generator=generator)
    x[:, 3] = 2.0
    moments = Moments(5, 5)
    moments.update(x, x[:, [0, 1, 2, 4, 0]] + 1)
    whitened = Whitening.from_moments(moments, "full").source(x)
    variances = torch.linalg.eigvalsh(second_moment(whitened))
    assert whitened.isfinite().all()
    assert float(variances[0]) < 1e-2
    torch.testing.assert_close(variances[1:], torch.ones(4).double(), rtol=1e-3, atol=0)


def test_errors_name_what_is_wrong(planted):
    with pytest.raises(InvalidValue, match=r"fit\.whitening"):
        Whitening.from_moments(planted.train_moments, "zca")
    moments = Moments(3, 2)
    moments.update(torch.randn(9, 3), torch.ones(9, 2))
    with pytest.raises(InvalidValue):
        Whitening.from_moments(moments, "full")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["none", "scale", "full"])
def test_unfold_takes_back_what_fold_does(planted, mode, bias):
    whitening = Whitening.from_moments(planted.train_moments, mode, bias=bias, l2=1e-3)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(16, 12, dtype=torch.float64, generator=generator)
    whitened = AffineMap(weight, torch.randn(16, dtype=torch.float64, generator=generator))
    again = whitening.unfold(whitening.fold(whitened))
    # the buffers are float32, and small directions are divided by small numbers
    torch.testing.assert_close(again.weight, whitened.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.bias, whitened.bias, rtol=1e-3, atol=1e-2)
