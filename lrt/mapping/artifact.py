"""A fitted map on disk: the tensors in `mapping.safetensors`, the card in `mapping.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrt.errors import UserError
from lrt.mapping.affine import AffineMap
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
    version=2,
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
    return load_artifact(
        MAP, folder, lambda tensors, _: AffineMap(tensors["weight"], tensors["bias"]), fix_hint
    )
