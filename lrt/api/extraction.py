"""Extracting a steering vector from contrastive prompts."""

from __future__ import annotations

from collections.abc import Sequence

from lrt.api.texts import checked_texts
from lrt.evaluation.neutral_texts import PARAGRAPHS
from lrt.models import LanguageModel
from lrt.steering import (
    SteeringVector,
    contrast_states,
    difference_of_means,
    median_residual_norm,
    prompts_digest,
)


def extract_vector(
    lm: LanguageModel,
    positives: Sequence[str],
    negatives: Sequence[str],
    layer: int | float,
    *,
    behaviour: str = "",
    neutral_texts: Sequence[str] = PARAGRAPHS,
) -> SteeringVector:
    """The steering vector of a set of contrastive prompts at one decoder block.

    It is CAA's difference of means (Rimsky et al., 2312.06681): the mean state of the positives' last tokens
    minus that of the negatives'. Strength 1 adds a vector as long as the median state on the neutral texts.

    positives, negatives  Prompts with and without the behaviour. They need not be as many.
    layer          Zero-based block, or a relative depth in [0, 1).
    behaviour      Name of what it steers, for messages and reports.
    neutral_texts  Texts whose states' median norm is the unit of strength; by default English paragraphs
                   of the project's own. Texts of the model's own kind and language measure it better.

    Raises InvalidValue for a side without prompts, prompts that are no texts or end a text, a layer that the
    model does not have, states that are infinite or NaN, and sides whose means are equal.
    """
    positives = checked_texts(positives, "positives")
    negatives = checked_texts(negatives, "negatives")
    neutral_texts = checked_texts(neutral_texts, "neutral_texts")
    block = lm.resolve_layer(layer, "layer")
    direction = difference_of_means(*contrast_states(lm, positives, negatives, block))
    vector = SteeringVector(
        direction,
        block,
        lm.spec.name,
        median_residual_norm(lm, neutral_texts, block),
        behaviour,
        prompts=prompts_digest(positives, negatives),
    )
    _ = vector.unit_direction  # a zero vector is refused here, not where it first steers
    return vector
