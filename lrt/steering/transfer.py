"""Transferring a steering vector to another model with a fitted affine map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, LayerConcat
from lrt.steering.vectors import UNIT, SteeringVector


@dataclass(frozen=True, eq=False)
class Mapping:
    """An affine map between named layers of two named models, which transfers steering vectors.

    source, target  Layers that the map reads and writes, side by side.
    residual_norms  The target's median residual norm by target layer.
    fingerprint     Identifies the fit; recorded in every transferred vector.

    Raises ValueError for a map of other widths than the layers have, or a target layer without a norm.
    """

    affine: AffineMap
    source: LayerConcat
    target: LayerConcat
    source_model: str
    target_model: str
    residual_norms: dict[int, float]
    fingerprint: str = ""

    def __post_init__(self) -> None:
        widths = self.affine.d_source, self.affine.d_target
        if widths != (self.source.total, self.target.total):
            raise ValueError(
                f"the map is {widths[0]} -> {widths[1]}, but layers {list(self.source.layers)} of "
                f"{self.source_model} and {list(self.target.layers)} of {self.target_model} make "
                f"{self.source.total} -> {self.target.total}"
            )
        if missing := set(self.target.layers) - set(self.residual_norms):
            raise ValueError(f"residual_norms lacks the target layers {sorted(missing)}")

    def transfer(
        self,
        vectors: SteeringVector | Sequence[SteeringVector],
        layer: int | None = None,
        *,
        paper_literal: bool = False,
    ) -> SteeringVector:
        """The transferred vector in the target's space at one target layer.

        A difference of means maps by `W v`: the bias cancels, so this is exact. `paper_literal` gives
        the paper's `A v + p` (end of section 3), in which the bias, usually far longer than `W v`,
        decides the direction.

        vectors  Of one behaviour, one for each source layer, in the order of `source.layers`.
        layer    The target layer; may be omitted where the map has one.

        Raises InvalidValue for a vector of another model, layer or width, and for a layer that is not
        among the target's.
        """
        vectors = [vectors] if isinstance(vectors, SteeringVector) else list(vectors)
        self._check(vectors)
        layer = self._target_layer(layer)
        stacked = torch.cat([vector.direction for vector in vectors])
        image = self.affine.directions(stacked.to(self.affine.weight))
        if paper_literal:
            image = image + self.affine.bias
        return replace(
            vectors[0],
            direction=self.target.part(image, layer).float(),
            layer=layer,
            model=self.target_model,
            residual_norm=self.residual_norms[layer],
            unit=UNIT,
            map={
                "fingerprint": self.fingerprint,
                "from_model": self.source_model,
                "from_layers": list(self.source.layers),
                "reading": "A v + p" if paper_literal else "W v",
            },
        )

    def with_affine(self, affine: AffineMap, fingerprint: str = "") -> Mapping:
        """The same layers and models with another map: a null's or a refit's."""
        return replace(self, affine=affine, fingerprint=fingerprint)

    def _check(self, vectors: Sequence[SteeringVector]) -> None:
        for vector in vectors:
            if vector.model != self.source_model:
                raise InvalidValue(
                    f"{vector!r} is of another model than the map's source {self.source_model}"
                )
            if len(vector.direction) != self.source.width:
                raise InvalidValue(
                    f"{vector!r} has width {len(vector.direction)}; the map reads {self.source.width} a layer"
                )
        layers = [vector.layer for vector in vectors]
        if layers != list(self.source.layers):
            raise InvalidValue(
                f"the map reads layers {list(self.source.layers)} of {self.source_model}, one vector each in "
                f"this order; got vectors of layers {layers}. Extract the vector there, or fit a map that "
                "reads its layer"
            )

    def _target_layer(self, layer: int | None) -> int:
        layers = self.target.layers
        if layer is None and len(layers) == 1:
            return layers[0]
        if layer not in layers:
            raise InvalidValue(
                f"layer={layer}: the map writes the layers {list(layers)} of {self.target_model}; choose one"
            )
        return layer
