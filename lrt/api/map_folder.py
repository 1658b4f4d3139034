"""Reading a map's folder."""

from __future__ import annotations

from collections.abc import Mapping as Named
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from torch import Tensor

from lrt.api.fitted_map import SUMS_FILE, FittedMap, fitted_of
from lrt.api.map_grid import MapGrid
from lrt.mapping import AffineMap, GridMoments, MapCorrupt, MapForeign, Moments, load_maps
from lrt.storage.sealed import Altered, load_tensors

AnyMoments = TypeVar("AnyMoments", Moments, GridMoments)


def load_map(folder: str | PathLike[str]) -> FittedMap | MapGrid:
    """The map that `FittedMap.save` or `MapGrid.save` wrote, checked against its checksums.

    Raises MapMissing, MapCorrupt or MapForeign (all `lrt.UserError`): there is no map, its files are damaged,
    or they are something else.
    """
    folder = Path(folder)
    maps, card = load_maps(folder)
    try:
        if isinstance(maps, AffineMap):
            return fitted_of(maps, _sums_in(folder, card["sums"], Moments), card)
        return MapGrid(maps, _sums_in(folder, card["sums"], GridMoments), card)
    except (KeyError, TypeError, ValueError) as error:
        raise MapForeign(
            f"{folder} holds a map, but not one that `save` of a fitted map wrote: its card lacks what a "
            f"transfer needs ({type(error).__name__}: {error}). Fit it with lrt.fit_map and save that"
        ) from error


def _sums_in(folder: Path, written: Named[str, Any] | None, kind: type[AnyMoments]) -> tuple[AnyMoments, ...]:
    if written is None:
        return ()
    path = folder / SUMS_FILE
    try:
        tensors = load_tensors(path, written["digest"])
    except (OSError, Altered, SafetensorError) as error:
        raise MapCorrupt(
            f"{path} cannot be used: {error}. Copy the folder again, or fit the map again"
        ) from error
    folds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, part = name.partition(".")
        folds.setdefault(number, {})[part] = tensor
    return tuple(kind.from_tensors(folds[str(number)]) for number in range(written["folds"]))
