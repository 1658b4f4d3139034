"""Carrying a steering vector across a fitted map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from lrt.mapping import AffineMap, LayerConcat
from lrt.steering.vectors import SteeringVector


def transfer(
    vectors: Sequence[SteeringVector],
    affine: AffineMap,
    *,
    model: str,
    residual_norms: Mapping[int, float],
    fingerprint: str = "",
    paper_literal: bool = False,
) -> list[SteeringVector]:
    """The image of a source vector in the target's space, one for each target layer of the map.

    A difference of means maps by `W v`: the bias cancels, so this is exact. `paper_literal` gives
    the paper's `A v + p` (end of section 3), in which the bias, usually far longer than `W v`,
    decides the direction.

    vectors         Of one behaviour, one for each source layer of the map, in the map's order.
    residual_norms  The target's median residual norm by target layer, in the map's order.

    Raises ValueError for vectors or layers that do not make up the map's widths.
    """
    stacked = torch.cat([vector.direction for vector in vectors])
    first, layers = vectors[0], tuple(residual_norms)
    if len(stacked) != affine.d_source:
        raise ValueError(
            f"the vector {first.behaviour!r} of {first.model} has {len(stacked)} entries over its "
            f"{len(vectors)} layers, the map takes {affine.d_source}: it was fitted on another source"
        )
    if affine.d_target % len(layers):
        raise ValueError(f"the map gives {affine.d_target} entries, which {len(layers)} layers cannot share")
    stack = LayerConcat(layers, affine.d_target // len(layers))
    image = affine.directions(stacked.to(affine.weight))
    if paper_literal:
        image = image + affine.bias
    return [
        replace(
            first,
            direction=stack.part(image, layer).float(),
            layer=layer,
            model=model,
            residual_norm=norm,
            map={
                "fingerprint": fingerprint,
                "from_model": first.model,
                "from_layers": [vector.layer for vector in vectors],
                "reading": "A v + p" if paper_literal else "W v",
            },
        )
        for layer, norm in residual_norms.items()
    ]
