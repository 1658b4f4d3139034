"""Moments by name: as files, in the CPU's memory, and on the device that solves them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from lrt.mapping import Moments
from lrt.storage.cache import Format, reading
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


class OnDisk(Mapping[str, Moments]):
    """Moments in a folder, each read, and its digest checked, whenever it is asked for.

    Raises CacheCorrupt for a damaged file.
    """

    def __init__(self, folder: Path, digests: Mapping[str, str]) -> None:
        self._folder, self._digests = folder, digests

    def __getitem__(self, name: str) -> Moments:
        digest = self._digests[name]
        with reading(self._folder):
            return Moments.load(self._folder / _file(name), digest)

    def __contains__(self, name: object) -> bool:
        return name in self._digests

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)


def in_memory(
    moments: Mapping[str, Moments], less: Mapping[str, Moments] | None = None
) -> dict[str, Moments]:
    """The moments by name, without the rows of those in `less` of the same name; one of `less` at a time."""

    def rest(name: str, each: Moments) -> Moments:
        taken = less[name] if less and name in less else None
        return each.without(taken) if taken is not None and taken.count else each

    return {name: rest(name, each) for name, each in moments.items()}


def _write_moments(folder: Path, moments: Mapping[str, Moments]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: each.save(folder / _file(name)) for name, each in moments.items()}
    write_sealed(folder / NAMES, digests)  # last: a folder with it is whole


def _read_moments(folder: Path) -> Mapping[str, Moments]:
    return OnDisk(folder, read_sealed(folder / NAMES))


def _file(name: str) -> str:
    """A plain file name: none leads out of the folder."""
    return f"{name.replace('/', '-')}.safetensors"


MOMENTS: Format[Mapping[str, Moments]] = Format("", _write_moments, _read_moments, NAMES)
