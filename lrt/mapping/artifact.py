"""A fitted map on disk: `mapping.safetensors` and the card beside it, `mapping.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrt.mapping.affine import AffineMap
from lrt.storage.artifact import ArtifactKind, load_artifact, save_artifact


class MapError(Exception):
    """A map on disk that cannot be used; the message says how to fix it."""


class MapMissing(MapError):
    """There is no map where one was looked for."""


class MapCorrupt(MapError):
    """The map's files are damaged: truncated, altered, or one of them gone."""


class MapForeign(MapError):
    """The files are something else than a map of this version."""


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
    """Write a map and its card, replacing one that is there.

    `card` is whatever tells where the map comes from (models, layers, corpus, fit, metrics), in
    plain containers. Raises TypeError or ValueError for a card that JSON cannot hold, before
    anything is written, and OSError where the folder cannot be written.
    """
    tensors = {"weight": affine.weight, "bias": affine.bias}
    save_artifact(MAP, folder, tensors, affine.describe(), card)


def load_map(folder: Path, fix_hint: str = "") -> tuple[AffineMap, dict[str, Any]]:
    """The map in `folder`, checked against its card, on the CPU, and the card that it was given.

    `fix_hint` is a sentence for the error message: what makes the map again, such as the command
    line. Raises MapMissing, MapCorrupt or MapForeign.
    """
    return load_artifact(
        MAP, folder, lambda tensors, _: AffineMap(tensors["weight"], tensors["bias"]), fix_hint
    )
