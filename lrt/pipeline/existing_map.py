"""A map that was fitted before, by a run or by `lrt.fit_map`, in place of the map of a run's own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrt.mapping import AffineMap, MapForeign, load_maps
from lrt.models.sides import SIDES
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.pair import ModelPair

HINT = "Give evaluation.map the folder of a map of this pair, or remove it"
DESCRIPTION = ("path", "revision", "weights", "depth", "width")
"""What the card of a library's map says of a model, as far as it is known. A run's names its files."""


def open_existing(folder: Path, layers: LayerPair, pair: ModelPair) -> tuple[AffineMap, dict[str, Any]]:
    """The map between these layers, and its card.

    Raises MapMissing, MapCorrupt, and MapForeign unless it is between these layers of these models.
    """
    maps, card = load_maps(folder, HINT)  # not its sums: nulls are of this run's rows
    if card.get("beside"):
        raise MapForeign(f"{folder} holds a map of several source models, and a run has one. {HINT}")
    wanted = {side: list(layers.of(side).layers) for side in SIDES}
    if isinstance(maps, AffineMap):
        affine = maps if card["layers"] == wanted else None
    else:  # of a grid: one layer of each side
        (source, *more), (target, *others) = wanted.values()
        one = None if more or others else maps.get((source, target))
        affine = None if one is None else one.affine()
    if affine is None:
        raise MapForeign(
            f"{folder} holds a map between layers {card['layers']}, and the settings are {wanted}: set "
            "layers.source and layers.target to the map's"
        )
    described = pair.described()
    for side in SIDES:
        theirs, ours = card["models"][side], described[side]
        compared = ("identity",) if "identity" in theirs else DESCRIPTION
        known = (name for name in compared if None not in (theirs.get(name), ours[name]))
        if differing := [name for name in known if theirs[name] != ours[name]]:
            raise MapForeign(
                f"{folder} holds a map whose {side} model, {theirs['name']}, is another than "
                f"{pair.names[side]} as it is loaded here ({', '.join(differing)}): set pair.{side} to the "
                f"map's. {HINT}"
            )
    return affine, card
