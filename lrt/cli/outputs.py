"""Where a command may write, checked before anything costly starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from lrt.errors import InvalidValue
from lrt.storage.catalogue import CARDS


def check_output(out: Path, kind: Literal["map", "vector"]) -> None:
    """Raise InvalidValue for a path in which no artifact of this kind can be written.

    An artifact of the same kind is replaced; one of another kind is not.
    """
    for card, other in CARDS.items():
        if other != kind and (out / card).exists():
            raise InvalidValue(f"--out {out} is the folder of a {other}; name another, or remove it")
    place = out if out.is_dir() else out.parent
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise InvalidValue(f"--out {out}: {place} is not a folder; name another path")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InvalidValue(f"--out {out}: the folder {place} cannot be written; name another path")
