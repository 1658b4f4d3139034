"""A native vector from few prompts, blended with a transferred one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lrt.api.texts import checked_texts
from lrt.errors import InvalidValue
from lrt.models import LanguageModel
from lrt.steering import (
    SteeringVector,
    contrast_states,
    difference_of_means,
    prompts_digest,
    sampling_variance,
)
from lrt.steering import blend as blend_directions


def blend(
    lm: LanguageModel,
    positives: Sequence[str],
    negatives: Sequence[str],
    transferred: SteeringVector,
) -> SteeringVector:
    """The native vector of a few contrastive prompts, shrunk towards a transferred one by an empirical-Bayes
    weight: the noisier the few prompts and the nearer the two vectors, the more the transferred one counts.

    The weight is in the vector's `method`. docs/price.md says how it is chosen.

    lm           The target model, which the transferred vector is of.
    positives, negatives  Prompts with and without the behaviour: at least two of each, and others than the
                 transferred vector was extracted from. As many of both are taken as pairs.
    transferred  The vector at the layer that is to be steered.

    Raises InvalidValue for a vector of another model or width, one that was extracted from these prompts,
    fewer than two prompts of a side, and what `extract_vector` refuses.
    """
    positives = checked_texts(positives, "positives")
    negatives = checked_texts(negatives, "negatives")
    if transferred.model != lm.spec.name:
        raise InvalidValue(f"{transferred!r} is not of {lm.spec.name}; give the target model of its map")
    if len(transferred.direction) != lm.width:
        raise InvalidValue(
            f"{transferred!r} has width {len(transferred.direction)}; {lm.spec.name} has {lm.width}"
        )
    digest = prompts_digest(positives, negatives)
    if transferred.prompts == digest:
        raise InvalidValue(
            "the transferred vector was extracted from these very prompts, so its noise is theirs; give "
            "other prompts"
        )
    states = contrast_states(lm, positives, negatives, lm.resolve_layer(transferred.layer, "layer"))
    variance = sampling_variance(*states)
    if variance is None:
        raise InvalidValue(
            f"{len(positives)} positives and {len(negatives)} negatives: at least two of each are needed to "
            "know the noise of their vector; add prompts"
        )
    mixed = blend_directions(difference_of_means(*states), transferred.direction, variance)
    vector = replace(
        transferred,
        direction=mixed.vector,
        method=f"blend of a native vector (weight {mixed.weight:.3g}) with a transferred one",
        prompts=digest,
    )
    _ = vector.unit_direction  # a zero vector is refused here, not where it first steers
    return vector
