"""Transferring a steering vector to another model with a fitted affine map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, LayerConcat
from lrt.steering.vectors import UNIT, SteeringVector


@dataclass(frozen=True)
class SourcePart:
    """Layers of a further source model, side by side. The map reads its states divided by `unit`.

    residual_norms  The model's own median residual norm at each layer, where they are known.
    """

    model: str
    layers: LayerConcat
    unit: float
    residual_norms: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Mapping:
    """An affine map between named layers of two named models, which transfers steering vectors.

    source, target  Layers that the map reads and writes, side by side.
    residual_norms  The target's median residual norm by target layer.
    fingerprint     Identifies the fit; recorded in every transferred vector.
    beside          Further source models, whose layers follow those of `source` in a row.

    Raises ValueError for a map of other widths than the layers have, or a target layer without a norm.
    """

    affine: AffineMap
    source: LayerConcat
    target: LayerConcat
    source_model: str
    target_model: str
    residual_norms: dict[int, float]
    fingerprint: str = ""
    beside: tuple[SourcePart, ...] = ()

    def __post_init__(self) -> None:
        widths = self.affine.d_source, self.affine.d_target
        total = sum(part.layers.total for part in self.sources)
        if widths != (total, self.target.total):
            raise ValueError(
                f"the map is {widths[0]} -> {widths[1]}, but layers {self._places} and "
                f"{list(self.target.layers)} of {self.target_model} make {total} -> {self.target.total}"
            )
        if missing := set(self.target.layers) - set(self.residual_norms):
            raise ValueError(f"residual_norms lacks the target layers {sorted(missing)}")

    @property
    def sources(self) -> tuple[SourcePart, ...]:
        """All source models, in the order of a row."""
        return (SourcePart(self.source_model, self.source, 1.0), *self.beside)

    def stacked(self, vectors: Sequence[SteeringVector]) -> Tensor:
        """Vectors `[d_source]` side by side, as the map reads them: one for each layer of each source model.

        Raises InvalidValue for a vector of another model, layer or width.
        """
        self._check(vectors)
        units = [part.unit for part in self.sources for _ in part.layers.layers]
        return torch.cat([v.direction / unit for v, unit in zip(vectors, units, strict=True)])

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

        vectors  Of one behaviour, one for each source layer, in the order of `source.layers`; then those of
                 the models of `beside`.
        layer    The target layer; may be omitted where the map has one.

        Raises InvalidValue for a vector of another model, layer or width, and for a layer that is not
        among the target's.
        """
        vectors = [vectors] if isinstance(vectors, SteeringVector) else list(vectors)
        stacked = self.stacked(vectors)
        layer = self._target_layer(layer)
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
                **(
                    {"beside": [[p.model, list(p.layers.layers)] for p in self.beside]} if self.beside else {}
                ),
            },
        )

    def with_affine(self, affine: AffineMap, fingerprint: str = "") -> Mapping:
        """The same layers and models with another map: a null's or a refit's."""
        return replace(self, affine=affine, fingerprint=fingerprint)

    @property
    def _places(self) -> str:
        return ", then ".join(f"{list(part.layers.layers)} of {part.model}" for part in self.sources)

    def _check(self, vectors: Sequence[SteeringVector]) -> None:
        wanted = [(part, layer) for part in self.sources for layer in part.layers.layers]
        models = {part.model for part, _ in wanted}
        for vector in vectors:
            if vector.model not in models:
                raise InvalidValue(
                    f"{vector!r} is of another model than the map's source {' or '.join(sorted(models))}"
                )
        for vector, (part, _) in zip(vectors, wanted, strict=False):
            if vector.model == part.model and len(vector.direction) != part.layers.width:
                raise InvalidValue(
                    f"{vector!r} has width {len(vector.direction)}; the map reads {part.layers.width} a layer"
                )
        given = [(vector.model, vector.layer) for vector in vectors]
        if given != [(part.model, layer) for part, layer in wanted]:
            layers = ", ".join(
                str(layer) if len(models) == 1 else f"{layer} of {model}" for model, layer in given
            )
            raise InvalidValue(
                f"the map reads layers {self._places}, one vector each in this order; got vectors of layers "
                f"[{layers}]. Extract the vector there, or fit a map that reads its layer"
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
