"""What a file or folder is, where it comes from, and whether it is intact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from lrt.activations import ActivationStore, StoreError
from lrt.activations.plan import ModelStates
from lrt.api.map_folder import read_map
from lrt.api.origin import origin_of
from lrt.errors import InvalidValue, UserError
from lrt.features import SaeError, load_autoencoder
from lrt.mapping import MapError
from lrt.mapping.artifact import MAP
from lrt.models.sides import SIDES
from lrt.steering import SteeringVector, VectorUnreadable
from lrt.steering.formats import FORMATS
from lrt.steering.formats.tensors import SUFFIXES
from lrt.steering.map_folder import load_fitted
from lrt.storage.catalogue import CARDS
from lrt.storage.tensor_files import read_numpy, read_safetensors, read_torch
from lrt.storage.text_files import read_json, read_text

DAMAGE = (StoreError, MapError, VectorUnreadable, SaeError, OSError)
"""What the checks raise for a damaged artifact."""
NO_CHECKSUM = "readable; it has no checksum"
UNSAID = "not in the file"
INTACT = "yes, by its checksums"


@dataclass(frozen=True)
class Inspection:
    """What something on the disk is.

    kind    Such as `map`, `steering vector`, `run`.
    facts   What it is and where it comes from, by name, for people.
    intact  Whether its bytes are those that were written, in words.
    fault   What is wrong with it; empty where nothing is.
    """

    kind: str
    facts: Mapping[str, str] = field(default_factory=dict)
    intact: str = INTACT
    fault: str = ""


def inspect(path: str | PathLike[str]) -> Inspection:
    """What a file or folder of this program, or a vector's file of another, is. Every byte is checked.

    Raises InvalidValue for a path that does not exist, or for a file of another kind.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidValue(f"{path} does not exist")
    if path.suffix == ".gguf" and path.is_file():
        return _gguf(path)
    if path.name in CARDS and path.name != "results.json":
        path = path.parent
    if path.is_file():
        return _results(path) if path.name == "results.json" else _vector_file(path)
    for card, describe in _DESCRIBED.items():
        if (path / card).is_file():
            try:
                if card in CHECKS:
                    CHECKS[card](path)
                return describe(path)
            except (*DAMAGE, UserError) as error:
                return Inspection(CARDS[card], intact="no", fault=str(error))
    if (path / ".hydra").is_dir():
        return _run(path)
    raise InvalidValue(
        f"{path} is not a map, vector, store, autoencoder, report or run. `lrt list {path}` lists what is in "
        "it"
    )


# -- integrity ----------------------------------------------------------------------------------------


def _check_store(folder: Path) -> None:
    ActivationStore.open(folder).verify(full=True)


CHECKS: dict[str, Callable[[Path], object]] = {
    "manifest.json": _check_store,
    "mapping.json": load_fitted,
    "vector.json": SteeringVector.load,
    "sae.json": load_autoencoder,
}
"""By the file that describes what lies beside it: reads every byte, and raises one of `DAMAGE`."""


# -- descriptions -------------------------------------------------------------------------------------


def _map(folder: Path) -> Inspection:
    mapping = read_map(folder)
    card = mapping.card
    facts: dict[str, str] = {"pair": card["pair"]} if "pair" in card else {}
    for side in SIDES:
        parts = [(card["layers"][side], card["models"][side])]
        if side == "source":
            parts += [(each["layers"], each) for each in card.get("beside", ())]
        facts[side] = ", then ".join(
            f"layers {', '.join(map(str, layers))} of {_model(model)}" for layers, model in parts
        )
    corpus = card["corpus"]
    facts["fitted"] = repr(mapping)
    facts["rows"] = f"{card['rows']['train']:,}, means of {corpus['pool']} tokens"
    if parts := corpus.get("parts"):
        facts["corpus parts"] = ", ".join(parts)
    facts["corpus"] = corpus["digest"][:12]
    if store := card.get("store"):
        facts["store"] = str(store)
    if "sums" in card:
        sums = card["sums"]
        facts["forecast"] = f"sums of {sums['bytes'] / 1e6:.3g} MB" if sums else "none: saved without sums"
    if origin := origin_of(folder, MAP.card_file):
        facts["pulled from"] = origin
    facts["fingerprint"] = card["fingerprint"]
    return Inspection("map", facts)


def _model(model: Mapping[str, Any]) -> str:
    """By name, and its hub id where it has one."""
    path, revision = model.get("path"), model.get("revision")
    if path is None:
        return str(model["name"])
    return f"{model['name']} ({path}@{revision})" if revision else f"{model['name']} ({path})"


def _vectors(vectors: Sequence[SteeringVector], form: str, intact: str) -> Inspection:
    first = vectors[0]
    facts = {
        "format": form,
        "behaviour": first.behaviour or "not named",
        "model": first.model,
        "layers": ", ".join(str(each.layer) for each in vectors),
        "width": str(len(first.direction)),
        "norm": ", ".join(f"{each.norm:.4g}" for each in vectors),
        "strength 1": ", ".join(f"{each.residual_norm:.4g}" for each in vectors) + f" ({first.unit})",
        "method": first.method,
    }
    if first.map is not None:
        layers = ", ".join(map(str, first.map.get("from_layers", ())))
        facts["transferred"] = (
            f"from {first.map.get('from_model')} layer {layers}, map {first.map.get('fingerprint')}"
        )
    if first.prompts:
        facts["prompts"] = f"sha256 {first.prompts[:12]}"
    return Inspection("steering vector", facts, intact)


def _vector(folder: Path) -> Inspection:
    return _vectors([SteeringVector.load(folder)], "lrt", INTACT)


def _vector_file(path: Path) -> Inspection:
    """A vector of other software: the first format that reads it. Of bare tensors, their names and shapes."""
    faults = []
    for name, form in FORMATS.items():
        if name in ("lrt", "tensors") or path.suffix not in (form.suffixes or (".pt", ".pth", ".bin")):
            continue
        try:
            return _vectors(form.read(path, model=UNSAID), name, NO_CHECKSUM)
        except UserError as error:
            faults.append((name, str(error)))
    if path.suffix in SUFFIXES:
        return _tensors(path)
    if faults:
        name, fault = faults[0]
        return Inspection(f"{name} file", intact="no", fault=fault)
    raise InvalidValue(
        f"{path} is not a file that is known here; vectors end in "
        f".gguf, .json or {', '.join(SUFFIXES)}, reports in results.json"
    )


def _gguf(path: Path) -> Inspection:
    """A control vector: one of ours says its model and has a checksum."""
    read = FORMATS["gguf"].read
    try:
        return _vectors(read(path), "gguf", INTACT)
    except UserError:
        try:
            return _vectors(read(path, model=UNSAID), "gguf", NO_CHECKSUM)
        except UserError as error:
            return Inspection("GGUF file", intact="no", fault=str(error))


def _tensors(path: Path) -> Inspection:
    try:
        match path.suffix:
            case ".safetensors":
                tensors: Mapping[Any, Any] = read_safetensors(path)
            case ".npz" | ".npy":
                tensors = read_numpy(path)
            case _:
                contents = read_torch(path)
                tensors = contents if isinstance(contents, dict) else {"tensor": contents}
    except UserError as error:
        return Inspection(f"{path.suffix} file", intact="no", fault=str(error))
    facts = {str(name): str(list(getattr(value, "shape", ()))) for name, value in tensors.items()}
    facts["to read it"] = "--from tensors --read layer= hook_point= residual_norm= model= (docs/formats.md)"
    return Inspection(f"tensors in a {path.suffix} file", facts, NO_CHECKSUM)


def _store(folder: Path) -> Inspection:
    manifest = ActivationStore.open(folder).manifest
    size = sum(shard.bytes for shard in manifest.shards)
    facts: dict[str, str] = {
        "tokens": f"{sum(shard.rows for shard in manifest.shards):,} in {len(manifest.shards)} shards",
        "size": f"{size / 1e9:.3g} GB",
    }
    for side in SIDES:
        facts[side] = _states(getattr(manifest.plan, side))
    return Inspection("store of hidden states", facts)


def _states(states: ModelStates) -> str:
    layers = ", ".join(map(str, states.layers))
    return f"layers {layers} of width {states.width}, {states.dtype}"


def _autoencoder(folder: Path) -> Inspection:
    sae, _ = load_autoencoder(folder)
    width, features = sae.W_enc.shape
    return Inspection(
        "sparse autoencoder", {"features": f"{features:,} of width {width}", "layer": str(sae.layer)}
    )


def _report(folder: Path) -> Inspection:
    return _results(folder / "results.json")


def _results(path: Path) -> Inspection:
    try:
        results = read_json(path, nan=True)
    except UserError as error:
        return Inspection("report", intact="no", fault=str(error))
    if not isinstance(results, dict) or "pair" not in results:
        raise InvalidValue(f"{path} is not the results.json of a report")
    facts = {"pair": results["pair"]["name"], "page": str(path.with_name("index.html"))}
    for behaviour in results.get("behaviours", ()):
        ratio = behaviour.get("ratio")
        facts[behaviour["name"]] = "no transfer ratio" if ratio is None else f"transfer ratio {ratio:.0%}"
    for name, print_ in results.get("provenance", {}).get("fingerprints", {}).items():
        facts[f"fingerprint of {name}"] = str(print_)
    return Inspection("report", facts, NO_CHECKSUM)


def _run(folder: Path) -> Inspection:
    overrides = folder / ".hydra" / "overrides.yaml"
    lines = read_text(overrides).splitlines() if overrides.is_file() else []
    words = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    facts = {"settings": " ".join(words) or "the defaults", "config": str(folder / ".hydra" / "config.yaml")}
    outcome = folder / "outcome.json"
    if outcome.is_file():
        contents = read_json(outcome, nan=True)
        facts |= {
            name: str(value) for name, value in contents.items() if isinstance(value, str | int | float)
        }
    else:
        facts["outcome"] = "none: it is running, was stopped, or failed"
    if (folder / "report" / "index.html").is_file():
        facts["report"] = str(folder / "report" / "index.html")
    return Inspection("run", facts, NO_CHECKSUM)


_DESCRIBED: dict[str, Callable[[Path], Inspection]] = {
    "mapping.json": _map,
    "vector.json": _vector,
    "manifest.json": _store,
    "sae.json": _autoencoder,
    "results.json": _report,
}
