from __future__ import annotations

import json
import os

import pytest
import torch

from lrt.mapping import AffineMap, MapCorrupt, MapForeign, MapMissing, load_map, save_map

MEND = "Make it with: python train.py experiment=lab"


@pytest.fixture
def affine() -> AffineMap:
    generator = torch.Generator().manual_seed(0)
    return AffineMap(torch.randn(5, 3, generator=generator), torch.randn(5, generator=generator))


@pytest.fixture
def folder(tmp_path, affine):
    save_map(tmp_path / "map", affine, {"layers": {"source": 2}, "fvu": 0.25})
    return tmp_path / "map"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_saved_is_loaded(tmp_path, affine, dtype):
    save_map(tmp_path / "deep" / "map", affine.to(dtype), {"models": ["a", "b"]})
    found, card = load_map(tmp_path / "deep" / "map")
    assert card == {"models": ["a", "b"]}
    assert found.weight.dtype == dtype
    assert torch.equal(found.weight, affine.weight.to(dtype))
    assert torch.equal(found.bias, affine.bias.to(dtype))
    names = sorted(path.name for path in (tmp_path / "deep" / "map").iterdir())
    assert names == ["mapping.json", "mapping.safetensors"]


def test_a_missing_map_says_what_makes_it(tmp_path):
    with pytest.raises(MapMissing, match=r"no map in .*nowhere.*Make it with: python train.py"):
        load_map(tmp_path / "nowhere", MEND)


def test_every_flipped_or_lost_byte_is_noticed(folder):
    path = folder / "mapping.safetensors"
    data = path.read_bytes()
    for position in (0, len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(MapCorrupt, match=r"mapping\.safetensors.*checksum.*train\.py"):
            load_map(folder, MEND)
    for other in (data[:-1], data + b"\0", b""):
        path.write_bytes(other)
        with pytest.raises(MapCorrupt, match=f"has {len(other)} bytes, its card says {len(data)}"):
            load_map(folder, MEND)
    path.unlink()
    with pytest.raises(MapCorrupt, match="is gone"):
        load_map(folder)
    path.write_bytes(data)
    load_map(folder)


@pytest.mark.parametrize(
    ("card", "error", "message"),
    [
        ('{"format": "lrt-ma', MapCorrupt, "not JSON"),
        ('{"format": "steering vector"}', MapForeign, "not the card of a map"),
        ("[1, 2]", MapForeign, "not the card of a map"),
        ('{"format": "lrt-map", "version": 99}', MapForeign, "version 99"),
        ('{"format": "lrt-map", "version": 1}', MapCorrupt, "'weights'"),
    ],
)
def test_other_cards_are_refused(folder, card, error, message):
    (folder / "mapping.json").write_text(card)
    with pytest.raises(error, match=message):
        load_map(folder, MEND)


def test_other_tensors_are_refused(folder):
    from hashlib import sha256

    from safetensors.torch import save

    data = save({"decoder": torch.zeros(2, 2)})
    (folder / "mapping.safetensors").write_bytes(data)
    card = json.loads((folder / "mapping.json").read_text())
    card["weights"] |= {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (folder / "mapping.json").write_text(json.dumps(card))
    with pytest.raises(MapForeign, match="does not hold a map"):
        load_map(folder)


def test_a_save_that_dies_midway_leaves_a_whole_map_or_none(folder, affine, monkeypatch):
    from lrt import durable

    other = AffineMap(affine.weight + 1, affine.bias)
    real = os.fsync
    for survivors in range(10):
        calls = 0

        def dying(handle, survivors=survivors):
            nonlocal calls
            calls += 1
            if calls > survivors:
                raise OSError("no space left on device")
            real(handle)

        save_map(folder, affine, {})
        with monkeypatch.context() as patch:
            patch.setattr(durable.os, "fsync", dying)
            try:
                save_map(folder, other, {})
            except OSError:
                finished = False
            else:
                finished = True
        try:
            found, _ = load_map(folder)
        except MapMissing:
            assert not finished
            continue
        assert torch.equal(found.weight, other.weight)
        if finished:
            break
    assert finished
    assert survivors >= 4


def test_a_card_that_json_cannot_hold_leaves_the_old_map(folder, affine):
    for card in ({"fvu": float("nan")}, {"weights": affine.weight}):
        with pytest.raises((TypeError, ValueError)):
            save_map(folder, affine, card)
    assert load_map(folder)[1]["fvu"] == 0.25
