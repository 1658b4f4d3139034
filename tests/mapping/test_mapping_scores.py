from __future__ import annotations

import math

import pytest
import torch

from lrt.mapping import cosine, excess


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
