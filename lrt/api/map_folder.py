"""Reading a map's folder."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from lrt.api.fitted_map import FittedMap, fitted_of
from lrt.api.map_grid import MapGrid
from lrt.mapping import MapForeign
from lrt.steering.map_folder import SavedMap, load_fitted
from lrt.steering.model_card import map_page


def read_map(folder: str | PathLike[str]) -> FittedMap | MapGrid:
    """The map of a folder, checked against its checksums.

    Raises MapMissing, MapCorrupt or MapForeign (all `lrt.UserError`): there is no map, its files are damaged,
    or they are something else.
    """
    folder = Path(folder)
    saved = load_fitted(folder)
    try:
        map_page(saved.card, folder.name)  # which saving and pushing write
        return fitted_of(*saved) if isinstance(saved, SavedMap) else MapGrid(*saved)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MapForeign(
            f"{folder} holds a map, but not one that `save` of a fitted map wrote: its card lacks what a "
            f"transfer needs ({type(error).__name__}: {error}). Fit it with lrt.fit_map and save that"
        ) from error
