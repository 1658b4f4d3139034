"""Stores, maps, vectors and autoencoders in a folder against their checksums.

lrt verify [--repair] [FOLDER]

Sizes and headers are checked whenever a store is opened; this reads every byte. (Cached results are read
whole whenever they are used.) With --repair damaged files of a store are removed, and the next run that needs
the store records them, and nothing else, again.
"""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from lrt.activations import repair
from lrt.api.inspection import CHECKS, DAMAGE


def verify(folder: Path, repairs: bool, console: Console) -> int:
    """Checks every artifact in a folder and prints the damaged ones; how many are still damaged.

    repairs  Remove damaged files of stores.
    """
    damaged = checked = 0
    for name, check in CHECKS.items():
        for place in sorted(path.parent for path in folder.rglob(name)):
            checked += 1
            try:
                check(place)
            except DAMAGE as error:
                console.print(f"damaged: {error}", style="red", markup=False)
                damaged += not (repairs and name == "manifest.json" and _repaired(place, console))
    console.print(f"{checked} checked in {folder}, {damaged} damaged")
    return damaged


def _repaired(place: Path, console: Console) -> bool:
    try:
        removed = ", ".join(repair(place))
    except DAMAGE as error:
        console.print(f"not repaired: {error}", style="red", markup=False)
        return False
    console.print(f"removed: {removed}; the next run records them", markup=False)
    return True


def run(folder: Path, repairs: bool) -> int:
    """Exit code: 1 where something is still damaged, 2 where there is no such folder, else 0."""
    console = Console(soft_wrap=True)  # a path is not broken at the terminal's edge
    if not folder.is_dir():
        console.print(f"error: {folder} is not a folder; give the artifacts' (paths.artifacts)", markup=False)
        return 2
    logging.getLogger("lrt").handlers = [RichHandler(console=console, show_path=False)]
    return int(verify(folder, repairs, console) > 0)
