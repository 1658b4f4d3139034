"""Maps of every pair of a grid of layers, among which a vector finds its own."""

from __future__ import annotations

import math
from collections.abc import Mapping as Named
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from lrt.api.fitted_map import FittedMap, Transferred, fitted_of
from lrt.api.vector_forecast import Candidate
from lrt.errors import InvalidValue
from lrt.mapping import FactoredMap, GridMoments, Moments, PairFit, pair_of
from lrt.steering import SteeringVector
from lrt.steering.map_folder import save_fitted, sums_bytes
from lrt.storage.fingerprint import fingerprint

_BY_FVU = (
    "the target layer was chosen by FVU alone, which favours early layers: load the map with its sums, or "
    "give target_layer"
)


@dataclass(frozen=True, eq=False, repr=False)
class MapGrid:
    """Ridge maps from every source layer to every target layer of a grid, fitted from one pass.

    maps   By source and target layer, each at the least rank that loses at most `card["loss"]` of FVU.
    folds  Moments of disjoint groups of training documents, on the CPU: the source's scatter once for each
           source layer, the target's once for each target layer. Empty for maps saved without them.
    card   Where they come from, as plain data: models, layers, corpus, rows, and figures of every pair.

    Raises KeyError, TypeError or ValueError for a card of other pairs.
    """

    maps: Named[tuple[int, int], FactoredMap]
    folds: tuple[GridMoments, ...]
    card: Named[str, Any]

    def __post_init__(self) -> None:
        pairs = [(pair.source, pair.target) for pair in self.pairs]
        grid = [(s, t) for s in self.source_layers for t in self.target_layers]
        if not pairs == grid == [*self.maps]:
            raise ValueError("the maps, the card's layers and its pairs are not the same")
        self._single(*grid[0], ())  # the rest of the card

    def __repr__(self) -> str:
        models, pairs = self.card["models"], self.pairs
        fvu, rank = [pair.fvu for pair in pairs], [pair.rank for pair in pairs]
        sums = f"sums of {self.sums_bytes / 1e6:.3g} MB" if self.folds else "no sums"
        return (
            f"MapGrid({models['source']['name']} layers {_listed(self.source_layers)} -> "
            f"{models['target']['name']} layers {_listed(self.target_layers)}, {len(pairs)} pairs, "
            f"{self.card['rows']['train']:,} rows, FVU {min(fvu):.3g} to {max(fvu):.3g} on held-out "
            f"documents, ranks {min(rank)} to {max(rank)}, maps of {self.maps_bytes / 1e6:.3g} MB, {sums})"
        )

    @property
    def source_layers(self) -> tuple[int, ...]:
        """The blocks of the source whose vectors can be transferred."""
        return tuple(self.card["layers"]["source"])

    @property
    def target_layers(self) -> tuple[int, ...]:
        """The blocks of the target that they can be transferred to."""
        return tuple(self.card["layers"]["target"])

    @cached_property
    def pairs(self) -> tuple[PairFit, ...]:
        """Figures of the map of each pair, by source layer and then by target layer."""
        return tuple(PairFit(**pair) for pair in self.card["pairs"])

    @property
    def maps_bytes(self) -> int:
        """Bytes of the stored maps."""
        return sum(pair.bytes for pair in self.pairs)

    @property
    def sums_bytes(self) -> int:
        """Bytes of the sums, in memory and in the folder.

        For `S` source and `T` target layers of widths `s` and `t`, 8 (S s^2 + S T s t + T t^2) a fold and a
        little.
        """
        return sums_bytes(self.folds)

    def at(self, source_layer: int, target_layer: int) -> FittedMap:
        """The map of one pair of layers. Raises InvalidValue for a layer that is not in the grid."""
        for side, layer, layers in (
            ("source", source_layer, self.source_layers),
            ("target", target_layer, self.target_layers),
        ):
            if layer not in layers or isinstance(layer, bool):
                raise InvalidValue(
                    f"{side}_layer={layer!r}: the maps are of {side} layers {_listed(layers)} of "
                    f"{self.card['models'][side]['name']}. Name one of these, or fit maps with that layer"
                )
        return self._single(source_layer, target_layer, pair_of(self.folds, source_layer, target_layer))

    def _single(self, source_layer: int, target_layer: int, folds: tuple[Moments, ...]) -> FittedMap:
        (pair,) = (p for p in self.pairs if (p.source, p.target) == (source_layer, target_layer))
        grid = self.card["fingerprint"]
        shared = {name: value for name, value in self.card.items() if name not in ("pairs", "sums")}
        card = {
            **shared,
            "layers": {"source": [source_layer], "target": [target_layer]},
            "residual_norms": [self.card["residual_norms"][self.target_layers.index(target_layer)]],
            "metrics": {
                name: getattr(pair, name)
                for name in ("fvu", "fvu_full", "fvu_validation", "ridge_weight", "rank", "change")
            },
            "fingerprint": fingerprint({"grid": grid, "pair": [source_layer, target_layer]}),
        }
        affine = self.maps[source_layer, target_layer].affine()
        return fitted_of(affine, folds, card)

    def transfer(
        self, vector: SteeringVector, *, target_layer: int | Literal["auto"] = "auto"
    ) -> Transferred:
        """The vector on the target model, by the map of its own layer, with its forecast.

        target_layer  A target layer of the grid. `auto` takes that with the most signal to noise of
                      `forecast.candidates`, then the least FVU, then the earliest. Which layer steers best is
                      only known by steering.

        Raises InvalidValue for a vector of another model, of a layer that is not in the grid, of another
        width, and a zero one.
        """
        name = self.card["models"]["source"]["name"]
        if vector.model != name:
            raise InvalidValue(f"{vector!r} is of another model than the maps' source {name}")
        if vector.layer not in self.source_layers:
            raise InvalidValue(
                f"{vector!r} is of layer {vector.layer}; the maps are of source layers "
                f"{_listed(self.source_layers)}. Extract the vector at one of these, or fit maps with "
                "its layer"
            )
        if target_layer != "auto":
            return self.at(vector.layer, target_layer).transfer(vector)
        results = {t: self.at(vector.layer, t).transfer(vector) for t in self.target_layers}
        fvu = {pair.target: pair.fvu for pair in self.pairs if pair.source == vector.layer}
        candidates = sorted(
            (Candidate(t, fvu[t], each.forecast) for t, each in results.items()), key=_preference
        )
        best = results[candidates[0].target_layer]
        warnings = best.forecast.warnings
        if best.forecast.signal_to_noise is None and len(candidates) > 1:
            warnings = (*warnings, _BY_FVU)
        return replace(best, forecast=replace(best.forecast, candidates=tuple(candidates), warnings=warnings))

    def save(self, folder: str | PathLike[str], *, sums: bool = True) -> None:
        """Write the maps, their card, their sums and a model card, replacing a map that is there.

        sums  Whether forecasts will be needed; they take `sums_bytes`.

        Raises OSError where the folder cannot be written.
        """
        save_fitted(Path(folder), dict(self.maps), self.folds if sums else (), self.card)


def _preference(candidate: Candidate) -> tuple[float, float, int]:
    ratio = candidate.forecast.signal_to_noise
    return math.inf if ratio is None else -ratio, candidate.fvu, candidate.target_layer


def _listed(layers: tuple[int, ...]) -> str:
    """Layers as text; more than two consecutive ones as a range."""
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))
