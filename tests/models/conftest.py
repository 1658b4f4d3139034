from collections.abc import Callable

import pytest
import torch
from model_families import WIDTH, Add, tiny
from torch import Tensor

from lrt.models import LanguageModel


@pytest.fixture(scope="session")
def lm_of() -> Callable[[str], LanguageModel]:
    """Tiny models, each built once."""
    made: dict[str, LanguageModel] = {}

    def get(family: str) -> LanguageModel:
        if family not in made:
            made[family] = tiny(family)
        return made[family]

    return get


@pytest.fixture
def vector() -> Tensor:
    """A direction, long enough to change what a tiny model says."""
    return 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def add(vector: Tensor) -> Callable[..., Add]:
    def make(layer: int, *strengths: float, start: int = 0) -> Add:
        return Add(layer, vector, torch.tensor(strengths), start)

    return make
