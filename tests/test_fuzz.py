"""Damaged files and impossible settings end in a typed error that names the file or the setting.

Where damage changes nothing that is read, the result is the same. No other exception, no other result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from running import composed

from lrt.activations import ActivationStore, StoreError, StoreForeign
from lrt.config import ConfigError, read_config
from lrt.evaluation.study_io import RecordCorrupt, read_study, write_study
from lrt.features import SaeError, SparseAutoencoder, load_autoencoder, save_autoencoder
from lrt.mapping import AffineMap, MapError, Moments, load_map, save_map
from lrt.pipeline.fit_data import MOMENTS
from lrt.steering import SteeringVector, VectorUnreadable
from lrt.storage.cache import JSON, TENSORS, CacheCorrupt, Format, reading
from lrt.storage.checkpoints import CheckpointUnreadable, DurableCheckpoints
from lrt.storage.sealed import opened, sealed, unsealed

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Kind:
    """An artifact: what writes it, what it is to a reader, and what is raised if it is damaged."""

    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    error: type[Exception]


def _write_store(folder: Path) -> None:
    from activations.planted_states import corpus_of, make_store

    make_store(folder, corpus_of(train=4, validation=1, test=1), rows_per_shard=16)


def _read_store(folder: Path) -> Any:
    store = ActivationStore.open(folder)
    store.verify(full=True)
    rows = [part["source.1"] for part in store.stream("train", ["source.1"])]
    return store.manifest, torch.cat(rows).tolist()


def _read_map(folder: Path) -> Any:
    affine, card = load_map(folder)
    return affine.weight.tolist(), affine.bias.tolist(), card


def _read_vector(folder: Path) -> Any:
    vector = SteeringVector.load(folder)
    return vector.direction.tolist(), vector.layer, vector.model, vector.residual_norm, vector.map


def _read_autoencoder(folder: Path) -> Any:
    sae, card = load_autoencoder(folder)
    return {name: tensor.tolist() for name, tensor in sae.state_dict().items()}, sae.describe(), card


def _read_checkpoint(folder: Path) -> Any:
    checkpoint = DurableCheckpoints().load_checkpoint(folder / "last.ckpt")
    return checkpoint["epoch"], checkpoint["weight"].tolist()


KINDS = {
    "store": Kind(_write_store, _read_store, StoreError),
    "map": Kind(
        lambda folder: save_map(folder, AffineMap(torch.randn(3, 2), torch.randn(3)), {"fvu": 0.25}),
        _read_map,
        MapError,
    ),
    "vector": Kind(
        lambda folder: SteeringVector(torch.randn(4), 3, "m", 2.0, map={"fingerprint": "f"}).save(folder),
        _read_vector,
        VectorUnreadable,
    ),
    "autoencoder": Kind(
        lambda folder: save_autoencoder(
            folder,
            SparseAutoencoder(
                torch.randn(2, 5), torch.zeros(5), torch.randn(5, 2), torch.zeros(2), kind="topk", k=2
            ),
            {"rows": 4},
        ),
        _read_autoencoder,
        SaeError,
    ),
}


def _write_study(folder: Path) -> None:
    from evaluation.planted_studies import planted_study
    from evaluation.small_behaviours import text_behaviour

    write_study(folder / "dogs.jsonl", planted_study(text_behaviour()))


def _write_moments(folder: Path) -> None:
    moments = Moments(3, 4)
    moments.update(torch.randn(9, 3), torch.randn(9, 4))
    MOMENTS.write(folder, {"train/0": moments, "test": moments})


def _read_moments(folder: Path) -> Any:
    with reading(folder):
        every = MOMENTS.read(folder)
    return {n: {k: t.tolist() for k, t in m.tensors().items()} for n, m in every.items()}


def _read_entry(folder: Path, form: Format[Any]) -> Any:
    path = folder / f"entry{form.suffix}"
    with reading(path):
        result = form.read(path)
    return {name: rows.tolist() for name, rows in result.items()} if form is TENSORS else result


KINDS |= {
    "study": Kind(_write_study, lambda folder: read_study(folder / "dogs.jsonl"), RecordCorrupt),
    "moments": Kind(_write_moments, _read_moments, CacheCorrupt),
    "tensors": Kind(
        lambda folder: TENSORS.write(folder / "entry.safetensors", {"positive": torch.randn(3, 4)}),
        lambda folder: _read_entry(folder, TENSORS),
        CacheCorrupt,
    ),
    "plain data": Kind(
        lambda folder: JSON.write(folder / "entry.json", {"ratio": 0.5, "layers": [1, 2], "note": None}),
        lambda folder: _read_entry(folder, JSON),
        CacheCorrupt,
    ),
}


def bytes_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", list(KINDS))
@FUZZ
@given(data=st.data())
def test_a_damaged_artifact(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    folder = _made(tmp_path_factory, name)
    whole, expected = bytes_of(folder), kind.read(folder)
    file = data.draw(st.sampled_from(list(whole)))
    content = bytearray(whole[file])
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "grow", "swap", "empty", "noise"])):
        case "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[at:]
        case "grow":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        case "swap":
            content = bytearray(whole[data.draw(st.sampled_from(list(whole)))])
        case "empty":
            content = bytearray()
        case "noise":
            content = bytearray(data.draw(st.binary(max_size=64)))
    try:
        file.write_bytes(content)
        try:
            result, message = kind.read(folder), str(folder)
        except kind.error as error:
            result, message = expected, str(error)
        assert result == expected
        assert str(folder) in message
    finally:
        file.write_bytes(whole[file])


@pytest.mark.parametrize("name", ["store", "map", "vector", "autoencoder", "moments"])
@FUZZ
@given(data=st.data())
def test_a_card_written_by_somebody_else(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Its digest is right, its entries are anything: it is read, or refused by the kind's own error."""
    kind, folder = KINDS[name], _made(tmp_path_factory, name)
    (card,) = folder.glob("*.json")
    whole = card.read_bytes()
    contents: Any = unsealed(opened(whole))
    path = data.draw(st.sampled_from(leaves(contents)))
    inner = contents
    for key in path[:-1]:
        inner = inner[key]
    match data.draw(st.sampled_from(["change", "take away", "add"])):
        case "take away":
            del inner[path[-1]]
        case "add" if isinstance(inner, dict):
            inner["../more"] = data.draw(PLAIN_ODD)
        case _:
            inner[path[-1]] = data.draw(PLAIN_ODD)
    outside = {path: path.stat().st_mtime_ns for path in folder.parent.glob("*")}
    card.write_text(sealed(contents))
    message = str(folder)
    try:
        kind.read(folder)
    except (kind.error, StoreForeign) as error:
        message = str(error)
    finally:
        card.write_bytes(whole)
    assert str(folder) in message
    assert {path: path.stat().st_mtime_ns for path in folder.parent.glob("*")} == outside


_folders: dict[str, Path] = {}


def _made(factory: pytest.TempPathFactory, name: str) -> Path:
    if name not in _folders:
        _folders[name] = factory.mktemp(name)
        KINDS[name].write(_folders[name])
    return _folders[name]


@FUZZ
@given(data=st.data())
def test_a_damaged_checkpoint(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    DurableCheckpoints().save_checkpoint({"epoch": 3, "weight": torch.arange(50.0)}, path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    path.write_bytes(content)
    # a flipped weight is not noticed (a checkpoint is one run's own), but nothing else is raised
    message = str(path)
    try:
        DurableCheckpoints().load_checkpoint(path)
    except CheckpointUnreadable as error:
        message = str(error)
    assert str(path) in message


ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        3,
        0.5,
        -0.5,
        1e300,
        float("inf"),
        float("nan"),
        "",
        "x",
        "all",
        "auto",
        [],
        [1, 1],
        [None],
        ["a", "a"],
        {},
        {"a": 1},
        {"kind": "x"},
    ]
)


PLAIN_ODD = ODD.filter(lambda value: value == value and value != float("inf")) | st.sampled_from(
    [10**12, -(10**12), "../../x", "/etc/passwd", "..", "train", "test-00000.safetensors", {"dtype": "F32"}]
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every entry of a config, sections among them."""
    paths = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            paths += leaves(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            paths += leaves(inner, (*path, at))
    return paths


@FUZZ
@given(data=st.data())
def test_an_impossible_setting(data: st.DataObject) -> None:
    experiment = data.draw(st.sampled_from(["reproduce", "micro", "paper_base"]))
    plain: Any = _plain(experiment)
    path = data.draw(st.sampled_from(leaves(plain)))
    inner = plain
    for key in path[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[path[-1]] = data.draw(ODD)
    elif isinstance(inner, dict):
        if data.draw(st.booleans()):
            del inner[path[-1]]
        else:
            inner[data.draw(st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=1))] = 1
    message = "the config cannot be run"
    try:
        read_config(OmegaConf.create(plain))
    except ConfigError as error:
        message = str(error)
    # the folder of local copies is looked at once the config is read
    assert message.startswith(("the config cannot be run", "pair.models="))


def _plain(experiment: str) -> Any:
    return copy.deepcopy(_composed(experiment))


@cache
def _composed(experiment: str) -> Any:
    more = () if experiment != "paper_base" else ("suite=storybook",)
    return OmegaConf.to_container(composed("train", f"experiment={experiment}", *more), resolve=True)
