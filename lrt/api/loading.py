"""Loading a language model or a map by its path or hub id."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path

from lrt.api.fitted_map import FittedMap
from lrt.api.hub import HubError, fetch, is_reference
from lrt.api.map_folder import read_map
from lrt.api.map_grid import MapGrid
from lrt.api.origin import origin_of
from lrt.lab.shipped import folder_of
from lrt.mapping import MapMissing
from lrt.mapping.artifact import MAP
from lrt.models import LanguageModel, ModelSpec
from lrt.models import load as load_spec
from lrt.models.spec import DeviceMap, DtypeName, Weights

STORYBOOK = "storybook"
"""`storybook:NAME` is a shipped model."""


def load(
    path: str | PathLike[str],
    *,
    dtype: DtypeName = "auto",
    device: str = "auto",
    revision: str | None = None,
    name: str = "",
    weights: Weights = "trained",
    seed: int = 0,
    device_map: DeviceMap | None = None,
) -> LanguageModel:
    """A language model and its tokenizer, on its device.

    path        Hub id, folder of `save_pretrained`, or `.gguf` file (`pip install 'lrt[gguf]'`). GGUF files
                are dequantised once into `LRT_CACHE`, or `~/.cache/lrt`. `storybook:NAME` is a shipped model:
                tiny, small, medium or small-disjoint.
    dtype       `auto`: the checkpoint's own on a GPU, float32 on most CPUs.
    device      `cuda`, `cuda:1`, `mps`, `cpu`; `auto`: CUDA where there is a GPU, else the CPU.
    revision    Branch, tag or commit of a hub id.
    name        Name in vectors, maps and messages; by default derived from `path`.
    weights     `random` keeps the architecture and draws new weights: the untrained control.
    seed        Of random weights.
    device_map  How to spread a model larger than one device, by transformers' names.

    Raises ModelNotLoadable, NoBlocks or FamilyNotSupported (all `lrt.UserError`), InvalidValue for an
    argument that is not allowed.
    """
    path = fspath(path)
    scheme, _, member = path.partition(":")
    return load_spec(
        ModelSpec(
            str(folder_of(member)) if scheme == STORYBOOK and member else path,
            revision=revision,
            dtype=dtype,
            device=device,
            weights=weights,
            seed=seed,
            name=name,
            device_map=device_map,
        )
    )


def load_map(folder: str | PathLike[str]) -> FittedMap | MapGrid:
    """The map that a run, `FittedMap.save` or `MapGrid.save` wrote, checked against its checksums.

    folder  A folder; or a map on the hub as text, `org/name` or `org/name@revision`, which is fetched into
            the hub's cache. A folder of that name is preferred.

    The card of a map that was pulled has the commit, `card["origin"]`.

    Raises MapMissing, MapCorrupt or MapForeign (all `lrt.UserError`): there is no map here or on the hub, its
    files are damaged, or they are something else.
    """
    path = Path(folder)
    if path.exists() or not is_reference(folder):
        mapping = read_map(path)
        origin = origin_of(path, MAP.card_file)
    else:
        try:
            pulled = fetch(fspath(folder))
        except HubError as error:
            raise MapMissing(
                f"there is no folder {folder}, and the hub gives no such map: {error}"
            ) from error
        if pulled.kind.artifact is not MAP:
            raise MapMissing(f"{folder} on the hub is a {pulled.kind.artifact.name}, not a map")
        mapping = read_map(pulled.folder)
        origin = f"{pulled.repository}@{pulled.commit}"
    return replace(mapping, card={**mapping.card, "origin": origin}) if origin else mapping
