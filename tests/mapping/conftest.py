"""A planted map that every fit has to find."""

import pytest
import torch
from planted_rows import Planted, plant


@pytest.fixture(scope="session")
def planted() -> Planted:
    """A full map 12 -> 16 whose small source directions matter as much as the large ones."""
    generator = torch.Generator().manual_seed(7)
    plain = torch.randn(16, 12, dtype=torch.float64, generator=generator)
    easy = plant(plain)
    # Give every source direction the same share of the target's variance.
    covariance = easy.train_moments.scatter_xx / easy.train_moments.count
    values, vectors = torch.linalg.eigh(covariance)
    return plant(plain @ vectors @ (vectors / values.sqrt()).T, noise=1.0)
