"""The storybook family's tokenizer and a tiny untrained model that reads it."""

from pathlib import Path

import pytest
import torch
from storybook_models import tiny_llama
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lrt.lab.shipped import WEIGHTS
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


@pytest.fixture(scope="session")
def classifier_folder(
    family_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny untrained text classifier with the labels ANSWER and REFUSAL."""
    made = tmp_path_factory.mktemp("classifier")
    config = BertConfig(
        vocab_size=len(family_tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        initializer_range=0.5,
        pad_token_id=family_tokenizer.pad_token_id,
        id2label={0: "ANSWER", 1: "REFUSAL"},
        label2id={"ANSWER": 0, "REFUSAL": 1},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
    assert model.num_parameters() < 60_000
    model.save_pretrained(made)
    family_tokenizer.save_pretrained(made)
    return made
