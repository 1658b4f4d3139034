"""A tiny Llama with the storybook tokenizer, and an equivalent model of another width."""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lrt.models import LanguageModel, ModelSpec


def tiny_llama(tokenizer: Any, width: int = 32, depth: int = 3, seed: int = 0) -> LanguageModel:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for name, weight in model.named_parameters():
            if "norm" in name:  # gains other than 1, so that folding them is tested
                weight.data = 0.5 + torch.rand_like(weight)
    return LanguageModel(ModelSpec(path=f"tiny-{width}"), model, tokenizer)


def semi_orthogonal(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator)).Q


@torch.no_grad()
def image_of(lm: LanguageModel, q: Tensor, c: float) -> LanguageModel:
    """A model with hidden state `c Q h` wherever that of `lm` is `h`, and with the same logits.

    Norm gains are folded into the layers after them. `mean(h'^2) = c^2 (d_S / d_T) mean(h^2)`, so eps is
    scaled by that. Normed states are `sqrt(d_T / d_S)` too long, which the layers after them correct.
    """
    d_target, d_source = q.shape
    small = lm.model
    config = LlamaConfig.from_dict(
        small.config.to_dict()
        | {
            "hidden_size": d_target,
            "rms_norm_eps": small.config.rms_norm_eps * c**2 * d_source / d_target,
        }
    )
    large = LlamaForCausalLM(config)
    shrink = math.sqrt(d_source / d_target)

    def read(weight: Tensor, gain: Tensor) -> Tensor:  # takes a normed state
        return (shrink * (weight.double() * gain.double()) @ q.T).float()

    def write(weight: Tensor) -> Tensor:  # adds to the stream
        return (c * q @ weight.double()).float()

    large.model.embed_tokens.weight.data = write(small.model.embed_tokens.weight.T).T.contiguous()
    for one, other in zip(small.model.layers, large.model.layers, strict=True):
        gain = one.input_layernorm.weight
        for name in ("q_proj", "k_proj", "v_proj"):
            weight = getattr(one.self_attn, name).weight
            getattr(other.self_attn, name).weight.data = read(weight, gain)
        other.self_attn.o_proj.weight.data = write(one.self_attn.o_proj.weight)
        gain = one.post_attention_layernorm.weight
        for name in ("gate_proj", "up_proj"):
            getattr(other.mlp, name).weight.data = read(getattr(one.mlp, name).weight, gain)
        other.mlp.down_proj.weight.data = write(one.mlp.down_proj.weight)
    large.lm_head.weight.data = read(small.lm_head.weight, small.model.norm.weight)
    for name, weight in large.named_parameters():
        if "norm" in name:
            weight.data = torch.ones_like(weight)
    return LanguageModel(ModelSpec(path=f"image-{d_target}"), large, lm.tokenizer)
