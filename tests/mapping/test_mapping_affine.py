from __future__ import annotations

import pytest
import torch

from lrt.mapping import AffineMap


def test_a_direction_is_the_difference_of_two_points():
    generator = torch.Generator().manual_seed(0)
    affine = AffineMap(torch.randn(5, 3, generator=generator), torch.randn(5, generator=generator))
    a, b = torch.randn(2, 7, 3, generator=generator)
    torch.testing.assert_close(affine.points(a) - affine.points(b), affine.directions(a - b))
    assert not torch.allclose(affine.points(a), affine.directions(a))
    assert affine.points(a.bfloat16()).dtype == torch.float32


def test_describe_tells_rank_scale_and_defect():
    rotation = torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(1))).Q
    described = AffineMap(3 * rotation, torch.tensor([3.0, 4.0, 0, 0, 0, 0])).describe()
    assert described["d_source"] == 4
    assert described["d_target"] == 6
    assert described["dtype"] == "float32"
    assert described["spectral_norm"] == pytest.approx(3.0, rel=1e-6)
    assert described["effective_rank"] == pytest.approx(4.0, rel=1e-5)
    assert described["orthogonality_defect"] == pytest.approx(0.0, abs=1e-10)
    assert described["bias_norm"] == pytest.approx(5.0)
    single = AffineMap(torch.outer(torch.ones(6), torch.ones(4)), torch.zeros(6)).describe()
    assert single["effective_rank"] == pytest.approx(1.0, rel=1e-5)
    assert single["orthogonality_defect"] == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2), r"\[3, 2\] and \[2\]"),
        (torch.zeros(3), torch.zeros(3), r"\[3\] and \[3\]"),
        (torch.zeros(3, 2).half(), torch.zeros(3).half(), "float16"),
        (torch.zeros(3, 2).double(), torch.zeros(3), "float64 and bias torch.float32"),
        (torch.full((3, 2), torch.nan), torch.zeros(3), "fit.learning_rate"),
    ],
)
def test_impossible_parts_are_refused(weight, bias, message):
    with pytest.raises(ValueError, match=message):
        AffineMap(weight, bias)


def test_the_part_onto_some_columns_gives_those_of_every_image():
    generator = torch.Generator().manual_seed(2)
    affine = AffineMap(torch.randn(5, 3, generator=generator), torch.randn(5, generator=generator))
    x = torch.randn(7, 3, generator=generator)
    part = affine.onto(slice(1, 4))
    assert (part.d_source, part.d_target) == (3, 3)
    torch.testing.assert_close(part.points(x), affine.points(x)[:, 1:4])
    torch.testing.assert_close(part.directions(x), affine.directions(x)[:, 1:4])
    with pytest.raises(ValueError, match=r"slice\(5, 7, None\)"):
        affine.onto(slice(5, 7))
