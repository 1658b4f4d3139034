"""The median norm of a model's hidden states on some texts: the unit of a vector's strength."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.models.language_model import LanguageModel
from lrt.models.prompts import encode


def median_residual_norm(lm: LanguageModel, texts: Sequence[str], layer: int) -> float:
    """Median Euclidean norm of the hidden states at a layer, over the tokens of texts.

    Each text's first token is excluded: its state is an attention sink's, often many times as long.

    Raises InvalidValue for texts without a second token, a layer that the model does not have, and norms
    whose median is infinite or NaN.
    """
    return median_residual_norms(lm, texts, [layer])[layer]


def median_residual_norms(lm: LanguageModel, texts: Sequence[str], layers: Sequence[int]) -> dict[int, float]:
    """`median_residual_norm` of several layers, from one pass of the model."""
    norms: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for ids in encode(lm.tokenizer, texts):
        states = lm.hidden_states(torch.tensor([ids]), layers)
        for layer, parts in norms.items():
            parts.append(torch.linalg.vector_norm(states[layer][0, 1:].float(), dim=-1).cpu())
    return {layer: _median(lm, layer, parts, len(texts)) for layer, parts in norms.items()}


def _median(lm: LanguageModel, layer: int, norms: list[Tensor], texts: int) -> float:
    joined = torch.cat(norms) if norms else torch.empty(0)
    if len(joined) == 0:
        raise InvalidValue(
            f"the residual norm of {lm.spec.name} needs texts of at least two tokens; got {texts} texts "
            "without any. Give a few neutral paragraphs"
        )
    median = float(joined.median())
    if not torch.tensor(median).isfinite():
        raise InvalidValue(
            f"the hidden states of {lm.spec.name} at layer {layer} are infinite or NaN in {lm.dtype}: run "
            "the model in bfloat16 or float32"
        )
    return median
