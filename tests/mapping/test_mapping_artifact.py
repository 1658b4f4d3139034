from __future__ import annotations

import json

import pytest
import torch

from lrt.mapping import AffineMap, MapCorrupt, MapForeign, MapMissing, load_map, save_map
from lrt.storage.sealed import sealed

FIX_HINT = "Make it with: python train.py experiment=lab"


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
    with pytest.raises(MapMissing):
        load_map(tmp_path / "nowhere", FIX_HINT)


def test_a_damaged_map_says_what_makes_it(folder):
    path = folder / "mapping.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MapCorrupt):
        load_map(folder, FIX_HINT)


@pytest.mark.parametrize(
    ("card", "error"),
    [
        ('{"format": "lrt-ma', MapCorrupt),
        ('{"format": "steering vector"}', MapForeign),
        ("[1, 2]", MapCorrupt),
        ('{"format": "lrt-map", "version": 99}', MapForeign),
        ('{"format": "lrt-map", "version": 3}', MapCorrupt),
        (sealed({"format": "lrt-map", "version": 3}), MapCorrupt),
    ],
)
def test_other_cards_are_refused(folder, card, error):
    (folder / "mapping.json").write_text(card)
    with pytest.raises(error):
        load_map(folder, FIX_HINT)


def test_other_tensors_are_refused(folder):
    from hashlib import sha256

    from safetensors.torch import save

    data = save({"decoder": torch.zeros(2, 2)})
    (folder / "mapping.safetensors").write_bytes(data)
    card = json.loads((folder / "mapping.json").read_text())
    card["weights"] |= {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (folder / "mapping.json").write_text(sealed(card))
    with pytest.raises(MapForeign):
        load_map(folder)
