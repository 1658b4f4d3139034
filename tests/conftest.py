"""The storybook family's tokenizer and a tiny untrained model that reads it."""

import pytest
import torch
from storybook_models import tiny_llama
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lrt.lab.shelf import WEIGHTS
from lrt.models import LanguageModel

# two workers on two cores: with more threads each they slow one another several times over
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def family_tokenizer() -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast.from_pretrained(WEIGHTS / "tokenizer")


@pytest.fixture(scope="session")
def story_lm(family_tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """Width 32, 3 blocks, float32: untrained, but what it says depends on all that it reads."""
    return tiny_llama(family_tokenizer)
