"""Base class of optional analyses. Cached by fingerprint; a failing analysis never aborts the others."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from lrt.config import ConfigError
from lrt.errors import UserError
from lrt.features import SaeError
from lrt.storage.cache import JSON, Cache, CacheCorrupt
from lrt.storage.checkpoints import CheckpointUnreadable, OutOfTime

log = logging.getLogger(__name__)

TO_BE_FIXED = (CacheCorrupt, CheckpointUnreadable, OutOfTime, SaeError, ConfigError)
"""Errors that name what the user has to fix or to run again, and say nothing about maps."""


class Analysis(ABC):
    """An entry of `results.json` that a run makes of its states and its whole-corpus map.

    name     The entry's key.
    version  Raised when the same facts come to give another result.
    smaller  What makes it need less memory, for messages.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    smaller: ClassVar[str]

    @property
    def memory(self) -> int:
        """Bytes that it holds at once, beside the maps' own moments."""
        return 0

    def check(self) -> None:  # noqa: B027 (most have nothing to check)
        """Raises UserError for settings that cannot be run, before anything costly."""

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Everything that determines the result."""

    @abstractmethod
    def make(self) -> Any:
        """The result, as plain data. Raises UserError where it cannot be had."""


def run_analyses(analyses: Iterable[Analysis], cache: Cache) -> dict[str, Any]:
    """Results by name; under `notes`, by name, why one could not be made.

    A user's mistake and a damaged file are raised. A fault of the program is logged with its traceback, noted
    as failed, and the others go on.
    """
    results: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for analysis in analyses:
        facts = {"analysis": analysis.name, "version": analysis.version, **analysis.facts()}
        try:
            results[analysis.name] = cache.made_once("analysis", facts, analysis.make, JSON, analysis.name)
        except TO_BE_FIXED:
            raise
        except UserError as error:
            log.warning("%s could not be made: %s", analysis.name, error)
            notes[analysis.name] = str(error)
        except Exception as error:  # whatever it is, the others are worth having
            log.exception("%s failed", analysis.name)
            notes[analysis.name] = f"failed ({type(error).__name__}: {error}); the log has its traceback"
    return results | ({"notes": notes} if notes else {})
