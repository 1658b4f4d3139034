"""Maps of every pair of a grid of layers, among which a vector finds its own."""

from __future__ import annotations

from collections.abc import Mapping as Named
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from lrt.api.fitted_map import FittedMap, Transferred, fitted_of
from lrt.api.vector_forecast import Candidate
from lrt.errors import InvalidValue
from lrt.mapping import FactoredMap, GridMoments, Moments, PairFit, pair_of
from lrt.models.sides import SIDES
from lrt.steering import SteeringVector
from lrt.steering.map_folder import save_fitted, sums_bytes
from lrt.storage.fingerprint import fingerprint

# A target layer whose signal to noise is below this share of the best one's is not chosen. Signal to noise
# alone would choose late layers, where much can be predicted.
LEAST_SHARE_OF_BEST = 0.25


@dataclass(frozen=True, eq=False, repr=False)
class MapGrid:
    """Ridge maps from every source layer to every target layer of a grid, fitted from one pass.

    maps   By source and target layer, each at the least rank that loses at most `card["loss"]` of FVU.
    folds  Moments of disjoint groups of training documents, on the CPU: the source's scatter once for each
           source layer, the target's once for each target layer. Empty for maps saved without them.
    card   Where they come from, as plain data: models, layers, corpus, rows, and figures of every pair.

    Raises KeyError, TypeError or ValueError for a card of other pairs, and maps or sums of other layers or
    widths than the card's.
    """

    maps: Named[tuple[int, int], FactoredMap]
    folds: tuple[GridMoments, ...]
    card: Named[str, Any]

    def __post_init__(self) -> None:
        pairs = [(pair.source, pair.target) for pair in self.pairs]
        grid = [(s, t) for s in self.source_layers for t in self.target_layers]
        if not pairs == grid == [*self.maps]:
            raise ValueError("the maps, the card's layers and its pairs are not the same")
        figures = [each for pair in self.pairs for each in asdict(pair).values() if each is not None]
        if any(type(each) not in (int, float) for each in figures):
            raise ValueError("the figures of the pairs are not numbers")
        widths = tuple(self.card["models"][side]["width"] for side in SIDES)
        if any((each.d_source, each.d_target) != widths for each in self.maps.values()) or any(
            (fold.source_layers, fold.target_layers, fold.d_source, fold.d_target)
            != (self.source_layers, self.target_layers, *widths)
            for fold in self.folds
        ):
            raise ValueError("the maps or the sums are of other layers or widths than the card's")
        for target_layer, _ in zip(self.target_layers, self.card["residual_norms"], strict=True):
            self._single(self.source_layers[0], target_layer, ())  # what else a transfer needs

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
            if type(layer) is not int or layer not in layers:
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
                for name in (
                    "fvu",
                    "fvu_full",
                    "fvu_validation",
                    "fvu_shuffled",
                    "ridge_weight",
                    "rank",
                    "change",
                )
            },
            "fingerprint": fingerprint({"grid": grid, "pair": [source_layer, target_layer]}),
        }
        affine = self.maps[source_layer, target_layer].affine()
        return fitted_of(affine, folds, card)

    def transfer(
        self, vector: SteeringVector, *, target_layer: int | Literal["auto"] = "auto"
    ) -> Transferred:
        """The vector on the target model, by the map of its own layer, with its forecast.

        target_layer  A target layer of the grid. `auto` takes the one nearest to the vector's relative depth,
                      of those whose signal to noise is at least a quarter of the best one's. Of two that are
                      as near, it takes that with more signal to noise, then less FVU, then the earlier. Which
                      layer steers best is only known by steering.

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
        depths = [self.card["models"][side]["depth"] for side in SIDES]
        candidates = best_first(
            [Candidate(t, fvu[t], each.forecast) for t, each in results.items()], vector.layer, *depths
        )
        best = results[candidates[0].target_layer]
        return replace(best, forecast=replace(best.forecast, candidates=candidates))

    def save(self, folder: str | PathLike[str], *, sums: bool = True) -> None:
        """Write the maps, their card, their sums and a model card, replacing a map that is there.

        sums  Whether forecasts will be needed; they take `sums_bytes`.

        Raises OSError where the folder cannot be written.
        """
        save_fitted(Path(folder), dict(self.maps), self.folds if sums else (), self.card)


def best_first(
    candidates: Sequence[Candidate], source_layer: int, source_depth: int, target_depth: int
) -> tuple[Candidate, ...]:
    """By `MapGrid.transfer`'s rule; those with too little signal to noise come last."""
    ratios = {each.target_layer: each.forecast.signal_to_noise or 0.0 for each in candidates}
    least = LEAST_SHARE_OF_BEST * max(ratios.values())

    def preference(candidate: Candidate) -> tuple[bool, int, float, float, int]:
        layer = candidate.target_layer
        # in whole numbers, so that two layers that are as near tie
        apart = abs((2 * source_layer + 1) * target_depth - (2 * layer + 1) * source_depth)
        return ratios[layer] < least, apart, -ratios[layer], candidate.fvu, layer

    return tuple(sorted(candidates, key=preference))


def _listed(layers: tuple[int, ...]) -> str:
    """Layers as text; more than two consecutive ones as a range."""
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))
