"""The error of a config that cannot be run."""

from __future__ import annotations

from lrt.errors import InvalidValue


class ConfigError(InvalidValue):
    """A config that cannot be run, with every fault named by its path."""
