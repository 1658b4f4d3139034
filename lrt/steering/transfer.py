"""Carrying a steering vector across a fitted map."""

from __future__ import annotations

from dataclasses import replace

from lrt.mapping import AffineMap
from lrt.steering.vectors import SteeringVector


def transfer(
    vector: SteeringVector,
    affine: AffineMap,
    *,
    layer: int,
    model: str,
    residual_norm: float,
    fingerprint: str = "",
    paper_literal: bool = False,
) -> SteeringVector:
    """The image of a source vector in the target's space.

    A difference of means maps by `W v`: the bias cancels, so this is exact. `paper_literal` gives
    the paper's `A v + p` (end of section 3), in which the bias, usually far longer than `W v`,
    decides the direction. Layer, model and residual norm are the target's. Raises ValueError for a
    vector of another width than the map's source.
    """
    if vector.direction.shape[0] != affine.weight.shape[1]:
        raise ValueError(
            f"the vector {vector.behaviour!r} of {vector.model} has {vector.direction.shape[0]} "
            f"entries, the map takes {affine.weight.shape[1]}: it was fitted on another source"
        )
    image = affine.directions(vector.direction.to(affine.weight))
    if paper_literal:
        image = image + affine.bias
    return replace(
        vector,
        direction=image.float(),
        layer=layer,
        model=model,
        residual_norm=residual_norm,
        map={
            "fingerprint": fingerprint,
            "from_model": vector.model,
            "from_layer": vector.layer,
            "reading": "A v + p" if paper_literal else "W v",
        },
    )
