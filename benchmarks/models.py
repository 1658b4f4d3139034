"""Models with random weights in the shape of real ones: speed does not depend on the weights."""

from __future__ import annotations

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from lrt.models import LanguageModel, ModelSpec

# width, intermediate, heads, key/value heads: Qwen2.5 0.5B and 1.5B
SMALL = (896, 4864, 14, 2)
LARGE = (1536, 8960, 12, 2)


def random_model(
    shape: tuple[int, int, int, int], depth: int, vocabulary: int, dtype: torch.dtype, seed: int = 0
) -> LanguageModel:
    """A Qwen2 of `depth` decoder blocks, without a tokenizer."""
    width, intermediate, heads, key_heads = shape
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return LanguageModel(ModelSpec(f"random {width} x {depth}"), model)


def block_products(lm: LanguageModel, layer: int, tokens: int, batch: int) -> None:
    """Compute only the matrix products of layers 0 to `layer` for `tokens` tokens."""
    linears = [m for block in lm.blocks[: layer + 1] for m in block.modules() if isinstance(m, nn.Linear)]
    inputs = {m.in_features: torch.randn(batch, m.in_features).to(lm.dtype) for m in linears}
    with torch.no_grad():
        for _ in range(tokens // batch):
            for linear in linears:
                nn.functional.linear(inputs[linear.in_features], linear.weight, linear.bias)
