"""A fitted map on disk: `mapping.safetensors` and the card beside it, `mapping.json`.

The card carries the weights' checksum, since safetensors notices a truncated file but not a
flipped byte. It is written last and removed first, so that a folder either holds a whole map or
none.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from lrt.durable import sync_folder, write_durably
from lrt.mapping.affine import AffineMap

WEIGHTS_FILE = "mapping.safetensors"
CARD_FILE = "mapping.json"
FORMAT = "lrt-map"
VERSION = 1


class MapError(Exception):
    """A map on disk that cannot be used; the message says how to mend it."""


class MapMissing(MapError):
    """There is no map where one was looked for."""


class MapCorrupt(MapError):
    """The map's files are damaged: truncated, altered, or one of them gone."""


class MapForeign(MapError):
    """The files are something else than a map of this version."""


def save_map(folder: Path, affine: AffineMap, card: dict[str, Any]) -> None:
    """Write a map and its card, replacing one that is there.

    `card` is whatever tells where the map comes from (models, layers, corpus, fit, metrics), in
    plain containers. Raises TypeError or ValueError for a card that JSON cannot hold, before
    anything is written, and OSError where the folder cannot be written.
    """
    weights = save_tensors(
        {
            "weight": affine.weight.detach().cpu().contiguous(),
            "bias": affine.bias.detach().cpu().contiguous(),
        }
    )
    content = {
        "format": FORMAT,
        "version": VERSION,
        "map": affine.describe(),
        "weights": {
            "file": WEIGHTS_FILE,
            "bytes": len(weights),
            "sha256": hashlib.sha256(weights).hexdigest(),
        },
        "card": card,
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD_FILE).unlink(missing_ok=True)
    sync_folder(folder)
    write_durably(folder / WEIGHTS_FILE, weights)
    write_durably(folder / CARD_FILE, text.encode())


def load_map(folder: Path, mend: str = "") -> tuple[AffineMap, dict[str, Any]]:
    """The map in `folder`, checked against its card, on the CPU, and the card that it was given.

    `mend` is a sentence for the error message: what makes the map again, such as the command
    line. Raises MapMissing, MapCorrupt or MapForeign.
    """

    def problem(kind: type[MapError], text: str) -> MapError:
        return kind(f"{text}. {mend}" if mend else text)

    card_path, weights_path = folder / CARD_FILE, folder / WEIGHTS_FILE
    if not card_path.is_file():
        raise problem(MapMissing, f"there is no map in {folder} ({CARD_FILE} is not there)")
    try:
        content = json.loads(card_path.read_bytes())
    except ValueError as error:
        raise problem(MapCorrupt, f"{card_path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise problem(MapForeign, f"{card_path} is not the card of a map")
    if content.get("version") != VERSION:
        raise problem(
            MapForeign,
            f"{card_path} has version {content.get('version')!r}, this program reads {VERSION}",
        )
    try:
        wanted, size = content["weights"]["sha256"], content["weights"]["bytes"]
        card = content["card"]
    except (KeyError, TypeError) as error:
        raise problem(MapCorrupt, f"{card_path} lacks its {error} entry") from error
    if not weights_path.is_file():
        raise problem(MapCorrupt, f"{weights_path} is gone, though its card is there")
    data = weights_path.read_bytes()
    if len(data) != size:
        raise problem(MapCorrupt, f"{weights_path} has {len(data)} bytes, its card says {size}")
    if hashlib.sha256(data).hexdigest() != wanted:
        raise problem(MapCorrupt, f"{weights_path} does not have the checksum that its card says")
    try:
        tensors = load_tensors(data)
        affine = AffineMap(tensors["weight"], tensors["bias"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise problem(MapForeign, f"{weights_path} does not hold a map: {error}") from error
    return affine, card
