"""A fitted map, or maps of several pairs of layers, on disk: `mapping.safetensors` and `mapping.json`.

The first holds the tensors, the second the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lrt.errors import UserError
from lrt.mapping.affine import AffineMap
from lrt.mapping.factored import FactoredMap
from lrt.storage.artifact import ArtifactKind, load_artifact, save_artifact


class MapError(UserError):
    """A map on disk that cannot be used; the message says how to fix it."""


class MapMissing(MapError):
    """There is no map in the folder."""


class MapCorrupt(MapError):
    """The map's files are damaged: truncated, altered, or one of them missing."""


class MapForeign(MapError):
    """The files are no map, or one of another version."""


MAP = ArtifactKind(
    name="map",
    article="a",
    entry="map",
    format="lrt-map",
    version=3,
    weights_file="mapping.safetensors",
    card_file="mapping.json",
    missing=MapMissing,
    corrupt=MapCorrupt,
    foreign=MapForeign,
)


def save_map(folder: Path, affine: AffineMap, card: dict[str, Any]) -> None:
    """Write a map and its card, replacing an existing one.

    `card` is the map's provenance (models, layers, corpus, fit, metrics) as plain data. Raises TypeError or
    ValueError for a card that JSON cannot hold, before anything is written, and OSError where the folder
    cannot be written.
    """
    tensors = {"weight": affine.weight, "bias": affine.bias}
    save_artifact(MAP, folder, tensors, affine.describe(), card)


def load_map(folder: Path, fix_hint: str = "") -> tuple[AffineMap, dict[str, Any]]:
    """The map in `folder`, on the CPU and checked against its checksum, and its card.

    `fix_hint` is a sentence for error messages: how to make the map, such as a command line. Raises
    MapMissing, MapCorrupt or MapForeign.
    """
    return load_artifact(MAP, folder, lambda tensors, _: _single(tensors), fix_hint)


PairMaps = dict[tuple[int, int], FactoredMap]  # by source and target layer


def save_pair_maps(folder: Path, maps: Mapping[tuple[int, int], FactoredMap], card: dict[str, Any]) -> None:
    """Write the maps of several pairs of layers in one file, and their card; otherwise as `save_map`."""
    tensors = {
        f"{source}.{target}.{name}": tensor
        for (source, target), each in maps.items()
        for name, tensor in each.tensors().items()
    }
    save_artifact(MAP, folder, tensors, {"pairs": len(maps)}, card)


def load_maps(folder: Path, fix_hint: str = "") -> tuple[AffineMap | PairMaps, dict[str, Any]]:
    """What `save_map` or `save_pair_maps` wrote, and its card; otherwise as `load_map`."""
    return load_artifact(
        MAP, folder, lambda tensors, _: _single(tensors) if "weight" in tensors else _pairs(tensors), fix_hint
    )


def _single(tensors: Mapping[str, Tensor]) -> AffineMap:
    if "weight" not in tensors and len(tensors) > 1:
        raise ValueError("it holds maps of several pairs of layers, which lrt.load_map reads")
    return AffineMap(tensors["weight"], tensors["bias"])


def _pairs(tensors: Mapping[str, Tensor]) -> PairMaps:
    parts: dict[tuple[int, int], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        source, target, part = name.split(".")
        parts.setdefault((int(source), int(target)), {})[part] = tensor
    return {pair: FactoredMap.from_tensors(parts[pair]) for pair in sorted(parts)}
