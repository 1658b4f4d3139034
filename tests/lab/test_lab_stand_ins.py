from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lrt.errors import InvalidValue
from lrt.lab.stand_ins import SHAPES, shape_of, write_stand_in


@pytest.mark.slow
@pytest.mark.parametrize("hub_id", SHAPES)
def test_the_sizes_are_those_of_the_published_model(hub_id: str) -> None:
    """A wrong size, or a misspelt one that transformers replaces in silence, makes another number."""
    shape = SHAPES[hub_id]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config())
    assert model.num_parameters() == shape.parameters


@pytest.mark.slow
@pytest.mark.parametrize("hub_id", SHAPES)
def test_a_stand_in_has_the_blocks_and_heads_and_few_dimensions(hub_id: str, tmp_path: Path) -> None:
    shape = SHAPES[hub_id]
    folder = write_stand_in(hub_id, tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config = model.config
    assert (config.model_type, config.num_hidden_layers) == (shape.family, shape.depth)
    assert config.num_attention_heads == shape.heads
    assert getattr(config, "num_key_value_heads", shape.heads) == shape.kv_heads
    assert model.num_parameters() < 13_000_000
    assert bool(tokenizer.chat_template) == shape.chat
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    assert model(ids).logits.isfinite().all()


def test_an_unknown_model_has_no_stand_in() -> None:
    with pytest.raises(InvalidValue, match="sizes of org/model are not known"):
        shape_of("org/model")
