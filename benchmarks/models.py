"""Models with random weights in the shape of real ones: speed does not depend on the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, Qwen2Config

from lrt.models import LanguageModel, ModelSpec
from lrt.models.loading import attention_kernel

# width, intermediate, heads, key/value heads: Qwen2.5 0.5B and 1.5B
SMALL = (896, 4864, 14, 2)
LARGE = (1536, 8960, 12, 2)
# the same and the number of blocks: Gemma-2 2b and 9b, whose heads are 256 wide
GEMMA_2B = (2304, 9216, 8, 4, 26)
GEMMA_9B = (3584, 14336, 16, 8, 42)


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
    return model_of(config, dtype, torch.device("cpu"), seed)


def gemma(
    shape: tuple[int, int, int, int, int], vocabulary: int, dtype: torch.dtype, device: torch.device
) -> LanguageModel:
    """A Gemma-2 of this shape (`GEMMA_2B`, `GEMMA_9B`), without a tokenizer."""
    width, intermediate, heads, key_heads, depth = shape
    config = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=256,
    )
    return model_of(config, dtype, device)


def model_of(config: Any, dtype: torch.dtype, device: torch.device, seed: int = 0) -> LanguageModel:
    """A model of a config, its random weights drawn on its device."""
    torch.manual_seed(seed)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **attention_kernel(config))
    return LanguageModel(ModelSpec(f"random {config.hidden_size} x {config.num_hidden_layers}"), model)


def block_products(lm: LanguageModel, layer: int, tokens: int, batch: int) -> None:
    """Compute only the matrix products of layers 0 to `layer` for `tokens` tokens."""
    linears = [m for block in lm.blocks[: layer + 1] for m in block.modules() if isinstance(m, nn.Linear)]
    inputs = {
        m.in_features: torch.randn(batch, m.in_features, device=lm.device).to(lm.dtype) for m in linears
    }
    with torch.no_grad():
        for _ in range(tokens // batch):
            for linear in linears:
                nn.functional.linear(inputs[linear.in_features], linear.weight, linear.bias)
