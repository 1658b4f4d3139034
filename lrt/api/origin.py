"""Where a pulled folder came from: the repository and its commit, in a file beside the map or vector."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lrt.errors import InvalidValue
from lrt.storage.sealed import read_sealed, write_sealed

ORIGIN_FILE = "origin.json"


def write_origin(folder: Path, card_file: str, repository: str, commit: str) -> None:
    """Note that the folder's artifact, which `card_file` describes, is that of a commit on the hub."""
    contents = {"repository": repository, "commit": commit, "card_sha256": _digest(folder / card_file)}
    write_sealed(folder / ORIGIN_FILE, contents)


def origin_of(folder: Path, card_file: str) -> str | None:
    """`org/name@commit` of a pulled folder; None for any other, and where another artifact was saved since.

    Raises InvalidValue for a note that was altered.
    """
    path = folder / ORIGIN_FILE
    if not path.is_file():
        return None
    try:
        note = read_sealed(path)
        origin = f"{note['repository']}@{note['commit']}"
    except (ValueError, KeyError) as error:
        raise InvalidValue(f"{path} is damaged or not of this program ({error}); delete it") from error
    return origin if note.get("card_sha256") == _digest(folder / card_file) else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
