import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lrt.activations import ActivationStore, StoreCorrupt, StoreForeign, StoreMissing
from lrt.activations.manifest import Manifest
from lrt.activations.plan import dtype_name
from lrt.storage.sealed import sealed

FILES = ["manifest.json", "train-00001.safetensors", "test-00000.safetensors"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "emptied", "extended", "deleted"])
def test_damage_is_noticed_on_opening(copied: Path, name: str, damage: str) -> None:
    path = copied / name
    content = path.read_bytes()
    path.unlink()
    damaged = {"truncated": content[:-7], "emptied": b"", "extended": content + b"{}"}
    if damage in damaged:
        path.write_bytes(damaged[damage])
    missing = damage == "deleted" and name == "manifest.json"
    with pytest.raises(StoreMissing if missing else StoreCorrupt, match=re.escape(name)) as caught:
        ActivationStore.open(copied)
    assert "delete the folder" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_noticed_by_the_full_check(copied: Path, name: str) -> None:
    path = copied / name
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 40):
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with pytest.raises((StoreCorrupt, StoreForeign), match=re.escape(name)):
            ActivationStore.open(copied).verify(full=True)
    path.write_bytes(content)
    ActivationStore.open(copied).verify(full=True)


def test_tokens_are_compared_with_the_manifest(copied: Path) -> None:
    manifest = ActivationStore.manifest_of(copied)
    first, *rest = manifest.shards
    other = replace(manifest, shards=(replace(first, tokens="0" * 64), *rest))
    (copied / "manifest.json").write_text(other.dumps())
    with pytest.raises(StoreCorrupt, match=first.file):
        ActivationStore.open(copied).verify(full=True)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("context", 0),
        ("sequences", {"train": -1, "validation": 6, "test": 5}),
        ("target", {"name": "x", "layers": [3], "width": 10, "dtype": "int7"}),
        ("states", "int3"),
        ("corpus", 7),
        ("groups", 7),
        ("groups", None),
        ("rows_per_shard", 128),  # it then lists too many shards
    ],
)
def test_a_manifest_with_an_invalid_plan_is_corrupt(copied: Path, entry: str, value: object) -> None:
    path = copied / "manifest.json"
    contents = json.loads(path.read_text())
    contents["plan"][entry] = value
    path.write_text(sealed(contents))
    with pytest.raises(StoreCorrupt, match=re.escape(str(path))):
        ActivationStore.open(copied)


@pytest.mark.parametrize("text", ["{}", "[]", "[" * 100_000])
def test_a_manifest_of_other_json_is_corrupt(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    with pytest.raises(StoreCorrupt, match=r"manifest\.json"):
        ActivationStore.open(copied)


def test_a_manifest_cannot_name_another_file(copied: Path) -> None:
    path = copied / "manifest.json"
    contents = json.loads(path.read_text())
    contents["shards"][0]["file"] = "../train-00000.safetensors"
    path.write_text(sealed(contents))
    with pytest.raises(StoreCorrupt, match=r"manifest\.json"):
        ActivationStore.open(copied)


@pytest.mark.parametrize("header", [b"[]", b"[" * 100_000, b"\xff" * 8])
def test_a_shard_with_another_header_is_corrupt(copied: Path, header: bytes) -> None:
    path = copied / "train-00001.safetensors"
    size = path.stat().st_size
    content = len(header).to_bytes(8, "little") + header
    path.write_bytes(content[:size].ljust(size, b"\0"))
    with pytest.raises(StoreCorrupt, match=path.name):
        ActivationStore.open(copied)


def test_a_shard_that_vanishes_after_opening_is_corrupt(copied: Path) -> None:
    store = ActivationStore.open(copied)
    shard = store.shards("train")[0]
    (copied / shard.file).unlink()
    with pytest.raises(StoreCorrupt, match=shard.file):
        store.reader(shard)


def test_the_fix_of_the_caller_ends_the_message(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"run `python train.py` first$"):
        ActivationStore.open(tmp_path / "none", fix_hint="run `python train.py` first")


def test_another_format_is_foreign(copied: Path) -> None:
    path = copied / "manifest.json"
    contents = json.loads(path.read_text())
    contents["plan"]["format"] = 99
    path.write_text(sealed(contents))
    with pytest.raises(StoreForeign, match="format 99"):
        ActivationStore.open(copied)


def test_a_layer_that_was_not_recorded(store: ActivationStore) -> None:
    with pytest.raises(StoreForeign, match=r"layers\.source=3"):
        store.column("source", 3)


def test_a_manifest_is_read_as_it_was_written(store: ActivationStore) -> None:
    manifest = store.manifest
    assert Manifest.loads(manifest.dumps(), "here", "") == manifest


@pytest.mark.parametrize("portion", [1, 7, 1000])
def test_a_stream_has_each_token_once_whatever_the_portion(store: ActivationStore, portion: int) -> None:
    parts = [p["document"] for p in store.stream("train", ["document"], portion)]
    assert max(map(len, parts)) <= portion
    assert torch.cat(parts).tolist() == [i // 16 for i in range(320)]


def test_states_of_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.int8"):
        dtype_name(torch.int8)
