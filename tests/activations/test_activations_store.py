import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_states import make_store

from lrt.activations import ActivationStore, StoreCorrupt, StoreForeign, StoreMissing
from lrt.activations.manifest import Manifest, dtype_name
from lrt.storage.sealed import sealed

FILES = ["manifest.json", "train-00001.safetensors", "test-00000.safetensors"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "emptied", "extended", "deleted"])
def test_damage_is_noticed_on_opening(tmp_path: Path, name: str, damage: str) -> None:
    make_store(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[:-7])
        case "emptied":
            path.write_bytes(b"")
        case "extended":
            path.write_bytes(content + b"{}")
        case "deleted":
            path.unlink()
    gone = damage == "deleted" and name == "manifest.json"
    with pytest.raises(StoreMissing if gone else StoreCorrupt, match=re.escape(name)) as caught:
        ActivationStore.open(tmp_path)
    assert "delete the folder" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_noticed_by_the_full_check(tmp_path: Path, name: str) -> None:
    make_store(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 40):
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with pytest.raises((StoreCorrupt, StoreForeign), match=re.escape(name)):
            ActivationStore.open(tmp_path).verify(full=True)
    path.write_bytes(content)
    ActivationStore.open(tmp_path).verify(full=True)


def test_tokens_are_those_that_the_manifest_lists_where_it_lists_them(tmp_path: Path) -> None:
    manifest = make_store(tmp_path).manifest
    first, *rest = manifest.shards
    for tokens, whole in (("0" * 64, False), ("", True)):  # as manifests were before they listed any
        told = replace(manifest, shards=(replace(first, tokens=tokens), *rest))
        (tmp_path / "manifest.json").write_text(told.dumps())
        store = ActivationStore.open(tmp_path)
        if whole:
            store.verify(full=True)
            continue
        with pytest.raises(StoreCorrupt, match=f"{first.file} is corrupt: its tokens"):
            store.verify(full=True)


def test_the_mend_of_the_caller_ends_the_message(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"run `python train.py` first$"):
        ActivationStore.open(tmp_path / "none", fix_hint="run `python train.py` first")


def test_another_format_is_foreign(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = tmp_path / "manifest.json"
    text = json.loads(store.manifest.dumps())
    text["plan"]["format"] = 99
    path.write_text(sealed(text))
    with pytest.raises(StoreForeign, match="is of format 99, this version reads 1"):
        ActivationStore.open(tmp_path)


def test_a_layer_that_was_not_recorded(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(StoreForeign, match=r"holds source layers \[1, 2\], not layers\.source=3"):
        store.column("source", 3)


def test_manifest_survives_its_own_spelling(tmp_path: Path) -> None:
    manifest = make_store(tmp_path).manifest
    assert Manifest.loads(manifest.dumps(), "here", "") == manifest


@pytest.mark.parametrize("portion", [1, 7, 16, 64, 1000])
def test_stream_gives_each_row_once_whatever_the_portion(tmp_path: Path, portion: int) -> None:
    store = make_store(tmp_path)
    parts = [p["document"] for p in store.stream("train", ["document"], portion)]
    assert max(map(len, parts)) <= portion
    assert torch.cat(parts).tolist() == [i // 16 for i in range(320)]


def test_states_of_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.int8 cannot be stored; one of float64"):
        dtype_name(torch.int8)
