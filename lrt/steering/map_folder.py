"""The folder of a fitted map: its tensors, its card, the sums behind its forecasts, and a model card.

Runs and the library write it here and read it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from lrt.mapping import (
    AffineMap,
    GridMoments,
    MapCorrupt,
    MapForeign,
    Moments,
    PairMaps,
    load_maps,
    save_map,
    save_pair_maps,
)
from lrt.mapping.artifact import MAP
from lrt.steering.model_card import PAGE_FILE, map_page
from lrt.storage.durable import write_durably
from lrt.storage.sealed import Altered, load_tensors, save_tensors

SUMS_FILE = "sums.safetensors"


class SavedMap(NamedTuple):
    """A map, the moments of its folds (none where they were not saved), and its card."""

    map: AffineMap
    folds: tuple[Moments, ...]
    card: dict[str, Any]


class SavedPairs(NamedTuple):
    """The same of the maps of several pairs of layers."""

    maps: PairMaps
    folds: tuple[GridMoments, ...]
    card: dict[str, Any]


def sums_bytes(folds: Sequence[Moments | GridMoments]) -> int:
    """Bytes of the sums of all folds, in memory and in the file, whose header adds a little."""
    return sum(t.nbytes for fold in folds for t in fold.tensors().values())


def save_fitted(
    folder: Path,
    maps: AffineMap | PairMaps,
    folds: Sequence[Moments | GridMoments],
    card: Mapping[str, Any],
) -> None:
    """Write a map, its card, the sums of its folds and README.md to a folder, replacing those that are there.

    folds  None for a map without forecasts.
    card   models, layers, residual_norms, corpus, rows, metrics (or pairs) and fingerprint, as plain data.

    Raises OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, written = folder / SUMS_FILE, None
    if path.exists():  # the card that describes them goes first
        (folder / MAP.card_file).unlink(missing_ok=True)
    if folds:
        numbered = {f"{n}.{name}": t for n, fold in enumerate(folds) for name, t in fold.tensors().items()}
        written = {"file": SUMS_FILE, "folds": len(folds), "bytes": sums_bytes(folds)}
        written["digest"] = save_tensors(path, numbered)
    card = {**card, "sums": written}
    write_durably(
        folder / PAGE_FILE,
        map_page(card, folder.name if folder.is_absolute() else folder.as_posix()).encode(),
    )
    # last: a folder with its card is whole
    if isinstance(maps, AffineMap):
        save_map(folder, maps, card)
    else:
        save_pair_maps(folder, maps, card)
    if written is None:
        path.unlink(missing_ok=True)


def load_fitted(folder: Path, fix_hint: str = "") -> SavedMap | SavedPairs:
    """What `save_fitted` wrote, checked against its checksums and shapes.

    fix_hint  A sentence for error messages: how to make the map, such as a command line.

    Raises MapMissing, MapCorrupt or MapForeign.
    """
    maps, card = load_maps(folder, fix_hint)
    path = folder / SUMS_FILE
    try:
        folds = [] if card.get("sums") is None else _folds_in(path, card["sums"], _shapes(maps))
        if isinstance(maps, AffineMap):
            return SavedMap(maps, tuple(map(Moments.from_tensors, folds)), card)
        return SavedPairs(maps, tuple(map(GridMoments.from_tensors, folds)), card)
    except (OSError, Altered, SafetensorError) as error:
        raise MapCorrupt(
            f"{path} cannot be used: {error}. {fix_hint or 'Copy the folder again, or fit the map again'}"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MapForeign(
            f"{path} does not hold the sums of this map: {error}. {fix_hint}".rstrip()
        ) from error


def _folds_in(
    path: Path, written: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]
) -> list[dict[str, Tensor]]:
    tensors = load_tensors(path, written["digest"])
    return [_one_fold(tensors, number, expected) for number in range(written["folds"])]


def _one_fold(
    tensors: Mapping[str, Tensor], number: int, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The tensors of one fold by name. Raises ValueError where they are not the sums of rows of the map."""
    start = f"{number}."
    fold = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
    for name, shape in expected.items():
        if fold[name].shape != shape or fold[name].dtype != torch.float64:
            held = f"{fold[name].dtype} {list(fold[name].shape)}"
            raise ValueError(f"{start}{name} is {held}, expected float64 {list(shape)}")
        if not fold[name].isfinite().all():
            raise ValueError(f"{start}{name} has entries that are not finite")
    if fold["count"].numel() != 1 or int(fold["count"]) < 1:
        raise ValueError(f"{start}count is not a number of rows")
    return fold


def _shapes(maps: AffineMap | PairMaps) -> dict[str, tuple[int, ...]]:
    """Shapes of the sums of one fold. Raises ValueError for maps of several widths."""
    source: tuple[int, ...] = ()
    target: tuple[int, ...] = ()
    if isinstance(maps, AffineMap):
        widths = {(maps.d_source, maps.d_target)}
    else:
        source, target = ((len({pair[side] for pair in maps}),) for side in (0, 1))
        widths = {(each.factors[-1].shape[-1], each.factors[0].shape[0]) for each in maps.values()}
    ((x, y),) = widths
    return {
        "shift_x": (*source, x),
        "shift_y": (*target, y),
        "sum_x": (*source, x),
        "sum_y": (*target, y),
        "sum_xx": (*source, x, x),
        "sum_xy": (*source, *target, x, y),
        "sum_yy": (*target, y, y),
    }
