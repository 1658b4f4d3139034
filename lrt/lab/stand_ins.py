"""Tiny untrained models in the place of published ones: same architecture, blocks and ratio of heads.

What a run does with them says that it works, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lrt.errors import InvalidValue
from lrt.lab.tokenizer import load_or_train_tokenizer


@dataclass(frozen=True)
class Shape:
    """Sizes of a published model, by transformers' names.

    family      transformers' model type.
    parameters  Of the whole model.
    chat        Whether its tokenizer has a chat template.
    more        Further values of its config that decide its number of parameters.
    """

    family: str
    parameters: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    head_width: int = 0
    chat: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> Any:
        """transformers' config of the published size."""
        return self._config(self.width, self.inner, self.vocabulary, self.head_width)

    def tiny_config(self, tokenizer: Any) -> Any:
        """The same for a tokenizer, with a width of eight a head: small in all but depth and heads."""
        width = 8 * self.heads
        ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
        more = ends | {"initializer_range": 0.3, "max_position_embeddings": 1024}
        return self._config(width, 2 * width, len(tokenizer), 8 if self.head_width else 0, **more)

    def _config(self, width: int, inner: int, vocabulary: int, head_width: int, **more: Any) -> Any:
        names = {"hidden_size": width, "num_hidden_layers": self.depth, "num_attention_heads": self.heads}
        if self.family != "gpt2":  # which names none
            names["intermediate_size"] = inner
        if self.kv_heads != self.heads or self.family in ("gemma2", "qwen2"):
            names["num_key_value_heads"] = self.kv_heads
        if head_width:
            names["head_dim"] = head_width
        return AutoConfig.for_model(self.family, vocab_size=vocabulary, **names, **self.more, **more)


_GEMMA_2B = Shape("gemma2", 2_614_341_888, 26, 2304, 8, 4, 9216, 256_000, head_width=256)
_GEMMA_9B = Shape("gemma2", 9_241_705_984, 42, 3584, 16, 8, 14336, 256_000, head_width=256)
_TIED, _UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}

SHAPES: dict[str, Shape] = {
    "google/gemma-2-2b": _GEMMA_2B,
    "google/gemma-2-9b": _GEMMA_9B,
    "google/gemma-2-2b-it": Shape(**{**vars(_GEMMA_2B), "chat": True}),
    "google/gemma-2-9b-it": Shape(**{**vars(_GEMMA_9B), "chat": True}),
    "Qwen/Qwen2.5-1.5B": Shape("qwen2", 1_543_714_304, 28, 1536, 12, 2, 8960, 151_936, chat=True, more=_TIED),
    "Qwen/Qwen2.5-7B": Shape(
        "qwen2", 7_615_616_512, 28, 3584, 28, 4, 18944, 152_064, chat=True, more=_UNTIED
    ),
    "EleutherAI/pythia-70m": Shape("gpt_neox", 70_426_624, 6, 512, 8, 8, 2048, 50_304),
    "EleutherAI/pythia-160m": Shape("gpt_neox", 162_322_944, 12, 768, 12, 12, 3072, 50_304),
    "openai-community/gpt2": Shape("gpt2", 124_439_808, 12, 768, 12, 12, 3072, 50_257),
    "openai-community/gpt2-medium": Shape("gpt2", 354_823_168, 24, 1024, 16, 16, 4096, 50_257),
}
"""By hub id."""


def shape_of(hub_id: str) -> Shape:
    """The sizes of a published model. Raises InvalidValue for one that is not known."""
    if hub_id not in SHAPES:
        raise InvalidValue(f"the sizes of {hub_id} are not known; known: {', '.join(sorted(SHAPES))}")
    return SHAPES[hub_id]


def write_stand_in(hub_id: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model in the place of a published one into `folder/tiny-NAME`, and return that.

    All share one tokenizer, which is trained on the lab's text the first time.

    Raises InvalidValue for a model whose sizes are not known.
    """
    shape = shape_of(hub_id)
    place = folder / f"tiny-{hub_id.rpartition('/')[2]}"
    tokenizer = load_or_train_tokenizer(folder / "tokenizer", documents=500, vocabulary=768)
    if not shape.chat:
        tokenizer.chat_template = None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(shape.tiny_config(tokenizer))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place
