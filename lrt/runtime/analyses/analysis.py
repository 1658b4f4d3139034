"""One thing that is told of the maps beside their use: made once, found again, and never another's loss."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from lrt.evaluation.study_io import RecordCorrupt
from lrt.features import SaeError
from lrt.mapping import NotConverged
from lrt.runtime.caches import CacheCorrupt, cache_read
from lrt.runtime.map_fit import MapFit
from lrt.runtime.schema import ConfigError
from lrt.runtime.vectors import Vectors
from lrt.storage.checkpoints import CheckpointUnreadable
from lrt.storage.fingerprint import fingerprint
from lrt.storage.sealed import read_sealed, write_sealed

log = logging.getLogger(__name__)


class Analysis(ABC):
    """An entry of `results.json` that a run makes of its store and its whole-corpus map."""

    name: ClassVar[str]
    version: ClassVar[int] = 1  # to be raised when the same facts come to give another result

    def __init__(self, run: Vectors, whole: MapFit) -> None:
        self.run, self.whole = run, whole
        self.settings = run.config.analysis

    @property
    @abstractmethod
    def asked(self) -> bool:
        """Whether the config asks for it, and the run has what it needs."""

    @property
    def memory(self) -> int:
        """Bytes that it holds at once, beside the maps' own moments."""
        return 0

    def check(self) -> None:  # noqa: B027 (most have nothing to check)
        """Raises ValueError or OSError for settings that cannot be run, before anything costly."""

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """All that determines the result."""

    @abstractmethod
    def make(self) -> Any:
        """The result, as plain data. Raises ValueError or NotConverged where it cannot be had."""

    def result(self) -> Any:
        """The result, made or found."""
        return kept(self.run, self.name, self.version, self.facts(), self.make)


def kept(run: Vectors, name: str, version: int, facts: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """Plain data found by what determines it, or made and kept. Raises CacheCorrupt for a damaged file."""
    digest = fingerprint({"analysis": name, "version": version, **facts})
    file = run.artifacts / "analysis" / f"{name}-{digest}.json"
    if not file.is_file():
        made = {"result": make()}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(file, made, allow_nan=True)
    return read(file)


def read(file: Path) -> Any:
    """A kept result. Raises CacheCorrupt."""
    with cache_read(file):
        return read_sealed(file)["result"]


# faults that say how to fix them, and nothing about maps
NO_FINDING = (CacheCorrupt, CheckpointUnreadable, RecordCorrupt, SaeError, ConfigError)


def attempt(analysis: Analysis, found: dict[str, Any], notes: dict[str, str]) -> None:
    """Puts a result into `found`; one that cannot be had is a note, and no reason to lose the others."""
    try:
        found[analysis.name] = analysis.result()
    except NO_FINDING:
        raise
    except (ValueError, NotConverged) as error:
        full = bool(os.environ.get("HYDRA_FULL_ERROR"))
        log.warning("%s could not be made: %s", analysis.name, error, exc_info=full)
        notes[analysis.name] = str(error)
