"""Moments by name: as files, in the CPU's memory, and on the device that solves them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from lrt.mapping import Moments
from lrt.storage.cache import Format
from lrt.storage.sealed import read_sealed, write_sealed

NAMES = "names.json"


class OnDevice(Mapping[str, Moments]):
    """Moments that lie in the CPU's memory, each moved to the device where it is solved when it is read."""

    def __init__(self, moments: Mapping[str, Moments], device: torch.device) -> None:
        self._moments, self._device = moments, device

    def __getitem__(self, name: str) -> Moments:
        return self._moments[name].to(self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)


def _write_moments(folder: Path, moments: Mapping[str, Moments]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: each.save(folder / _file(name)) for name, each in moments.items()}
    write_sealed(folder / NAMES, digests)  # last: a folder with it is whole


def _read_moments(folder: Path) -> dict[str, Moments]:
    digests = read_sealed(folder / NAMES)
    return {name: Moments.load(folder / _file(name), digest) for name, digest in digests.items()}


def _file(name: str) -> str:
    """A plain file name: none leads out of the folder."""
    return f"{name.replace('/', '-')}.safetensors"


MOMENTS: Format[dict[str, Moments]] = Format("", _write_moments, _read_moments, NAMES)
