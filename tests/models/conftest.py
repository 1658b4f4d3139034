from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_families import WIDTH, Add, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in bfloat16 with its tokenizer, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny("llama").model.to(torch.bfloat16).save_pretrained(folder)
    rules = Tokenizer(models.WordLevel({"<unk>": 0, "once": 1, "upon": 2}, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="<unk>").save_pretrained(folder)
    return folder
