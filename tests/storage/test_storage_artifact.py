"""What maps and autoencoders on a disk have in common; their own words are in their own tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lrt.storage import durable
from lrt.storage.artifact import ArtifactKind, load_artifact, save_artifact


class Missing(Exception):
    pass


class Corrupt(Exception):
    pass


class Foreign(Exception):
    pass


KIND = ArtifactKind(
    name="egg",
    article="an",
    entry="shell",
    format="lrt-egg",
    version=3,
    weights_file="egg.safetensors",
    card_file="egg.json",
    missing=Missing,
    corrupt=Corrupt,
    foreign=Foreign,
    needed=("colour",),
)
MEND = "Lay it again"
SHELL = {"colour": "brown", "thickness": 0.5}


def save(folder: Path, value: float = 1.0, card: dict[str, Any] | None = None) -> None:
    save_artifact(KIND, folder, {"yolk": torch.full((3, 2), value).T}, SHELL, card or {})


def built(tensors: dict[str, Tensor], described: dict[str, Any]) -> tuple[Tensor, str]:
    return tensors["yolk"], described["colour"]


def test_what_is_saved_is_loaded_with_the_keys_that_are_needed(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "egg", 2.0, {"hen": "Ada"})
    seen: list[dict[str, Any]] = []

    def build(tensors: dict[str, Tensor], described: dict[str, Any]) -> Tensor:
        seen.append(described)
        return tensors["yolk"]

    yolk, card = load_artifact(KIND, tmp_path / "deep" / "egg", build)
    assert torch.equal(yolk, torch.full((2, 3), 2.0))
    assert card == {"hen": "Ada"}
    assert seen == [{"colour": "brown"}]
    assert sorted(p.name for p in (tmp_path / "deep" / "egg").iterdir()) == ["egg.json", "egg.safetensors"]


def test_every_flipped_or_lost_byte_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"there is no egg in .*egg\.json is not there.*Lay it again"):
        load_artifact(KIND, tmp_path, built, MEND)
    save(tmp_path)
    path = tmp_path / "egg.safetensors"
    data = path.read_bytes()
    for position in (0, len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(Corrupt, match=r"egg\.safetensors.*checksum.*Lay it again"):
            load_artifact(KIND, tmp_path, built, MEND)
    for other in (data[:-1], data + b"\0", b""):
        path.write_bytes(other)
        with pytest.raises(Corrupt, match=f"has {len(other)} bytes, its card says {len(data)}"):
            load_artifact(KIND, tmp_path, built)
    path.unlink()
    with pytest.raises(Corrupt, match=r"is gone, though its card is there$"):
        load_artifact(KIND, tmp_path, built)
    path.write_bytes(data)
    assert load_artifact(KIND, tmp_path, built)[0][1] == "brown"


@pytest.mark.parametrize("error", [KeyError, TypeError, ValueError])
def test_tensors_that_make_nothing_are_foreign(tmp_path: Path, error: type[Exception]) -> None:
    def build(*_: object) -> None:
        raise error("no chick")

    save(tmp_path)
    with pytest.raises(Foreign, match=r"egg\.safetensors does not hold an egg: .*no chick.*Lay it again"):
        load_artifact(KIND, tmp_path, build, MEND)


def test_a_save_that_dies_midway_leaves_a_whole_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    for survivors in range(10):
        calls = 0

        def dying(handle: int, survivors: int = survivors) -> None:
            nonlocal calls
            calls += 1
            if calls > survivors:
                raise OSError("no space left on device")
            real(handle)

        save(tmp_path, 1.0)
        with monkeypatch.context() as patch:
            patch.setattr(durable.os, "fsync", dying)
            try:
                save(tmp_path, 2.0)
            except OSError:
                finished = False
            else:
                finished = True
        try:
            (yolk, _), _ = load_artifact(KIND, tmp_path, built)
        except Missing:
            assert not finished
            continue
        assert torch.equal(yolk, torch.full((2, 3), 2.0))
        if finished:
            break
    assert finished
    assert survivors >= 4


def test_a_card_that_json_cannot_hold_leaves_the_old_files(tmp_path: Path) -> None:
    save(tmp_path, 1.0, {"hen": "Ada"})
    for card in ({"weight": float("nan")}, {"yolk": torch.ones(1)}):
        with pytest.raises((TypeError, ValueError)):
            save(tmp_path, 2.0, card)
    (yolk, _), card = load_artifact(KIND, tmp_path, built)
    assert (float(yolk[0, 0]), card) == (1.0, {"hen": "Ada"})
