from __future__ import annotations

import math

import pytest
import torch

from lrt.mapping import cosine, excess, rest_beside


def test_cosine_is_that_of_the_angle_whatever_lengths_and_dtypes() -> None:
    a = torch.tensor([3.0, 0.0, 0.0])
    b = torch.tensor([1e-12, 1e-12, 0.0], dtype=torch.float64)
    assert cosine(a, b) == cosine(b, a) == pytest.approx(math.sqrt(0.5), rel=1e-12)
    assert cosine(a, -a) == -1
    assert cosine(a, torch.zeros(3)) == 0


def test_excess_is_relative_to_the_optimum_and_zero_for_a_perfect_fit() -> None:
    assert excess(0.3, 0.2) == pytest.approx(0.5)
    assert excess(0.2, 0.2) == 0
    assert excess(1e-13, 0.0) == 0
    assert excess(1e-3, 0.0) == pytest.approx(1e9)


def test_the_rest_beside_a_span_is_orthogonal_to_it_and_nothing_within() -> None:
    generator = torch.Generator().manual_seed(0)
    span = torch.randn(3, 9, generator=generator)
    doubled, v = torch.cat([span, span[:1]]), torch.randn(9, generator=generator)
    rest = rest_beside(v, doubled)
    assert (doubled.double() @ rest).abs().max() < 1e-10
    torch.testing.assert_close(rest, rest_beside(v + 2 * span[1], span), atol=1e-5, rtol=0)
    assert rest_beside(span.sum(0), span).norm() < 1e-5
    torch.testing.assert_close(rest_beside(v, torch.zeros(1, 9)), v.double())
