"""Results that are made once and reused: one folder a kind, one entry for what determines the result.

`Cache.made_once` is all that a stage needs: its facts (everything that determines the result), the function
that makes it, and the `Format` in which it lies on disk. An entry is whole or absent, its digest is checked
whenever it is read, and of several processes that need it one makes it while the others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors import SafetensorError
from torch import Tensor

from lrt.errors import UserError
from lrt.storage.durable import remove
from lrt.storage.fingerprint import fingerprint
from lrt.storage.locks import locked
from lrt.storage.sealed import load_tensors, read_sealed, save_tensors, write_sealed

T = TypeVar("T")


class CacheCorrupt(UserError):
    """A cached result that cannot be read; the message names its path."""


@dataclass(frozen=True)
class Format(Generic[T]):
    """How one kind of result lies on disk.

    suffix  Of its path; empty for a folder.
    last    The file of a folder that is written last: with it the folder is whole.
    write   Writes the result to a path, wholly or not at all.
    read    Reads it and checks its digest; raises ValueError, KeyError, OSError or SafetensorError for a
            damaged one.
    """

    suffix: str
    write: Callable[[Path, T], None]
    read: Callable[[Path], T]
    last: str = ""

    def is_whole(self, path: Path) -> bool:
        """Whether an entry is there."""
        return (path / self.last if self.last else path).is_file()


def _write_json(path: Path, result: Any) -> None:
    write_sealed(path, {"result": result}, allow_nan=True)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_tensors(path, tensors)


JSON: Format[Any] = Format(".json", _write_json, lambda path: read_sealed(path)["result"])
"""Plain data."""
TENSORS: Format[Mapping[str, Tensor]] = Format(".safetensors", _write_tensors, load_tensors)
"""Tensors by name."""


class Cache:
    """The artifacts folder as a store of results by kind and fingerprint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: str, facts: Mapping[str, Any], suffix: str = "", name: str = "") -> Path:
        """Where a result lies: `KIND/[NAME-]FINGERPRINT[SUFFIX]`; `name` is for people."""
        return self.folder / kind / f"{f'{name}-' if name else ''}{fingerprint(facts)}{suffix}"

    def made_once(
        self, kind: str, facts: Mapping[str, Any], make: Callable[[], T], form: Format[T], name: str = ""
    ) -> T:
        """The result that the facts determine: read, or made and written.

        Raises CacheCorrupt for a damaged entry, and what `make` raises.
        """
        return self.resumed(kind, facts, lambda _: make(), form, name)

    def resumed(
        self, kind: str, facts: Mapping[str, Any], make: Callable[[Path], T], form: Format[T], name: str = ""
    ) -> T:
        """The same for work that is stopped and continued: `make` gets a path of its own for what is done
        so far, which is removed once the result is whole."""
        path = self.path(kind, facts, form.suffix, name)
        partial = path.with_name(f"{path.name}.partial")
        if not form.is_whole(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.folder / "locks" / f"{kind}-{path.name}.lock"
            lock.parent.mkdir(exist_ok=True)
            with locked(lock, f"making {path}"):
                if partial.is_symlink():
                    remove(partial)
                if not form.is_whole(path):  # another process may have made it meanwhile
                    form.write(path, make(partial))
        remove(partial)
        with reading(path):
            return form.read(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what reading a damaged entry raises into `CacheCorrupt`."""
    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CacheCorrupt(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete it and run the command again"
        ) from error
