"""The vectors that a map transfers: its figures along them, and the files in which they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from lrt.evaluation import Behaviour, ContrastStates
from lrt.mapping import AffineMap, Moments, cosine
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.vectors import prompts_digests
from lrt.steering import Mapping as Transfer


@dataclass(frozen=True)
class MapVectors:
    """Source and native vectors of the contrasts that a map serves.

    states      Of both models, by contrast.
    mapping_of  A map between these layers as what transfers vectors.
    """

    contrasts: Mapping[str, Behaviour]
    states: Mapping[str, ContrastStates]
    layers: LayerPair
    mapping_of: Callable[[AffineMap], Transfer]

    @property
    def digests(self) -> dict[str, str]:
        """Of the prompts, by contrast."""
        return prompts_digests(self.contrasts)

    def native(self) -> Iterator[tuple[str, Tensor]]:
        """Native vectors `[d_target]` over all target layers, zero but at one, by label."""
        for label, states, layer in self._at_target_layers():
            yield label, self.layers.target.alone(states.target_vector, layer)

    def figures(self, affine: AffineMap, test: Moments) -> dict[str, Any]:
        """Error along each native vector, and its cosine with the transferred one, by label."""
        mapping = self.mapping_of(affine)
        return {
            "error_along": {label: test.error_along(affine, vector) for label, vector in self.native()},
            "cosine_with_native": {
                label: cosine(
                    mapping.transfer(states.vectors("source"), layer).direction,
                    self.layers.target.part(states.target_vector, layer),
                )
                for label, states, layer in self._at_target_layers()
            },
        }

    def save(self, folder: Path, affine: AffineMap, known: Mapping[str, str] = MappingProxyType({})) -> None:
        """Saves source, native and transferred vectors of every contrast, for use elsewhere; not those that
        are `known` by the same prompts."""
        mapping = self.mapping_of(affine)
        for name, digest in self.digests.items():
            if known.get(name) == digest:
                continue
            source, native = (self.states[name].vectors(side) for side in ("source", "target"))
            transferred = [mapping.transfer(source, layer) for layer in self.layers.target.layers]
            for role, saved in (("source", source), ("native", native), ("transferred", transferred)):
                models = list(dict.fromkeys(vector.model for vector in saved))
                for vector in saved:
                    model = models.index(vector.model)
                    place = role if len(models) == 1 else f"{role}-{model}"
                    vector.save(folder / name / place / f"layer-{vector.layer}")

    def _at_target_layers(self) -> Iterator[tuple[str, ContrastStates, int]]:
        """Every contrast at every target layer: its label (`name`, of several layers `name@layer`), its
        states and the layer."""
        layers = self.layers.target.layers
        for name in self.contrasts:
            for layer in layers:
                yield f"{name}@{layer}" if len(layers) > 1 else name, self.states[name], layer
