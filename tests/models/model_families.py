"""Tiny randomly initialised models of many transformers families, and a plain intervention."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lrt.models import LanguageModel, ModelSpec

VOCABULARY = 61
DEPTH = 4
WIDTH = 32

# Wide enough an initialisation that blocks do something and argmax has no ties.
_USUAL = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Tied, a model this small says its last token for ever.
    "tie_word_embeddings": False,
}
_GROUPED = _USUAL | {"num_key_value_heads": 2}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": DEPTH,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_BLOOM = {k: v for k, v in _GPT2.items() if k not in ("n_embd", "n_positions")}
_FALCON = {k: v for k, v in _USUAL.items() if k != "intermediate_size"}

# transformers takes misspelt config fields in silence, and the "tiny" model is then a full one:
# so each family's parameter count is written down here and asserted in `tiny`.
# Sliding windows are shorter than the test's sequences, so that they bite.
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "llama": ("llama", _GROUPED, 34912),
    "qwen2": ("qwen2", _GROUPED, 35168),
    "qwen3": ("qwen3", _GROUPED | {"head_dim": 8}, 34976),
    "mistral": ("mistral", _GROUPED | {"sliding_window": 4}, 34912),
    "mixtral": ("mixtral", _GROUPED | {"num_local_experts": DEPTH}, 90720),
    "gemma2": (
        "gemma2",
        _GROUPED | {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
        35168,
    ),
    "phi3": ("phi3", _GROUPED, 34912),
    "olmo2": ("olmo2", _GROUPED, 35104),
    "gpt2": ("gpt2", _GPT2, 56832),
    "gpt_neox": ("gpt_neox", _USUAL, 33984),
    "gptj": ("gptj", _GPT2 | {"rotary_dim": 4}, 54077),
    "falcon": ("falcon", _FALCON, 47232),
    "falcon_alibi": ("falcon", _FALCON | {"alibi": True}, 47232),
    "bloom": ("bloom", _BLOOM | {"hidden_size": WIDTH}, 54848),
}
ALL = sorted(FAMILIES)
# One of each way in which families differ: bare and tuple outputs, rotary, learned and ALiBi
# positions, sliding windows with soft caps.
FEW = ["bloom", "gemma2", "gpt2", "llama"]

SEQUENCES = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [20, 21, 22, 23, 24]]


def tiny(family: str, seed: int = 0) -> LanguageModel:
    kind, settings, parameters = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    assert model.num_parameters() == parameters
    return LanguageModel(ModelSpec(path=f"tiny/{family}"), model)


@dataclass(frozen=True)
class Add:
    """Adds `strengths[row] * vector` to every token (or to those from position `start` on)."""

    layer: int
    vector: Tensor  # [d]
    strengths: Tensor  # [rows]
    start: int = 0

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        strengths, vector = (each.to(hidden.device) for each in (self.strengths, self.vector))
        shift = strengths[:, None, None] * vector * (positions >= self.start)[..., None]
        return (hidden.float() + shift).to(hidden.dtype)

    def take(self, rows: slice) -> "Add":
        return Add(self.layer, self.vector, self.strengths[rows], self.start)


def hooks_in_force(lm: LanguageModel) -> int:
    """Hooks and replaced `forward`s anywhere in the model."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in vars(module))
        for module in lm.model.modules()
    )
