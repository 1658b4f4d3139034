"""Several source models side by side, each in units of its own size."""

from __future__ import annotations

from collections.abc import Sequence

from lrt.models.language_model import LanguageModel
from lrt.models.stacked import StackedModel, StackedPart
from lrt.steering.residual_norm import median_residual_norms


def stacked(
    sources: Sequence[LanguageModel], blocks: Sequence[tuple[int, ...]], neutral_texts: Sequence[str]
) -> StackedModel:
    """The models as one, at some blocks of each.

    A unit is the mean over a model's blocks of their median norms on the neutral texts, over that of the
    first model. So the first model's states stay as they are, and the others' are as long.

    Raises InvalidValue for no models, one twice, and texts that are too short.
    """
    norms = [
        median_residual_norms(lm, neutral_texts, layers) for lm, layers in zip(sources, blocks, strict=True)
    ]
    sizes = [sum(each.values()) / len(each) for each in norms]
    return StackedModel(
        [
            StackedPart(lm, layers, size / sizes[0], tuple(each.values()))
            for lm, layers, size, each in zip(sources, blocks, sizes, norms, strict=True)
        ]
    )
