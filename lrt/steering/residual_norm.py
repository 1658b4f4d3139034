"""The median norm of a model's hidden states on some texts: the unit of a vector's strength."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrt.errors import InvalidValue
from lrt.models.language_model import LanguageModel
from lrt.models.prompts import encode


def median_residual_norm(lm: LanguageModel, texts: Sequence[str], layer: int) -> float:
    """Median Euclidean norm of the hidden states at a layer, over the tokens of texts.

    Each text's first token is excluded: its state is an attention sink's, often many times as long.

    Raises InvalidValue for texts without a second token, a layer that the model does not have, and norms
    whose median is infinite or NaN.
    """
    norms = []
    for ids in encode(lm.tokenizer, texts):
        (states,) = lm.hidden_states(torch.tensor([ids]), [layer]).values()
        norms.append(torch.linalg.vector_norm(states[0, 1:].float(), dim=-1).cpu())
    joined = torch.cat(norms) if norms else torch.empty(0)
    if len(joined) == 0:
        raise InvalidValue(
            f"the residual norm of {lm.spec.name} needs texts of at least two tokens; got {len(texts)} texts "
            "without any. Give a few neutral paragraphs"
        )
    median = float(joined.median())
    if not torch.tensor(median).isfinite():
        raise InvalidValue(
            f"the hidden states of {lm.spec.name} at layer {layer} are infinite or NaN in {lm.dtype}: run "
            "the model in bfloat16 or float32"
        )
    return median
