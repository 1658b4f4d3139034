"""What is raised where a file that a run kept cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class CacheCorrupt(ValueError):
    """A cached file that cannot be read; the message names it and how to fix it."""


@contextmanager
def cache_read(path: Path) -> Iterator[None]:
    """Turns what reading a damaged cache raises into `CacheCorrupt`, which says to delete `path`."""
    try:
        yield
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CacheCorrupt(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete it and run the command again"
        ) from error
