"""Text that a model goes on with, by its own `generate`."""

from __future__ import annotations

from typing import Any

import torch

from lrt.errors import InvalidValue
from lrt.models.prompts import encode_prompts
from lrt.numbers import whole


@torch.no_grad()
def continuation(model: Any, tokenizer: Any, device: torch.device, prompt: str, max_new_tokens: int) -> str:
    """The greedy continuation of a prompt, without the prompt and without special tokens.

    model      A transformers model with `generate`. Hooks on it apply to every token.
    tokenizer  Its tokenizer.
    device     Of the input ids.

    Raises InvalidValue for a prompt that is no text or has no tokens, and for `max_new_tokens` below 1.
    """
    if not isinstance(prompt, str):
        raise InvalidValue(f"prompt={prompt!r} is a {type(prompt).__name__}; it must be one text")
    whole("max_new_tokens", max_new_tokens, 1)
    (ids,) = encode_prompts(tokenizer, [prompt])
    tokens = torch.tensor([ids], device=device)
    ends = model.generation_config.eos_token_id
    # where a checkpoint names no padding, transformers takes the first end and warns of it
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends
    output = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        # a checkpoint's own settings of sampling, which greedy decoding would warn of
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=padding[0] if isinstance(padding, list) else padding,
    )
    return str(tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True))
