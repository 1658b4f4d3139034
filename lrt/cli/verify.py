"""make verify: the stores, maps, vectors and autoencoders in a folder against their checksums.

python -m lrt.runtime.verify [--repair] [FOLDER]

Sizes and headers are looked at whenever a store is opened; this reads every byte. (Moments, states and
measurements are read whole whenever they are used.) With --repair damaged files of a store are taken out of
it, and the next run that needs the store records them, and nothing else, again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from lrt.activations import ActivationStore, StoreError, repair
from lrt.features import SaeError, load_autoencoder
from lrt.mapping import MapError, load_map
from lrt.steering import SteeringVector, VectorUnreadable


def _check_store(folder: Path) -> None:
    ActivationStore.open(folder).verify(full=True)


# by the file that says what lies beside it
CHECKS: dict[str, Callable[[Path], object]] = {
    "manifest.json": _check_store,
    "mapping.json": load_map,
    "vector.json": SteeringVector.load,
    "sae.json": load_autoencoder,
}
DAMAGE = (StoreError, MapError, VectorUnreadable, SaeError, OSError)


def verify(folder: Path, fix_hint: bool, console: Console) -> int:
    """Checks what lies in a folder and tells of each; how many are damaged still.

    fix_hint  Take damaged files out of stores.
    """
    damaged = checked = 0
    for name, check in CHECKS.items():
        for place in sorted(path.parent for path in folder.rglob(name)):
            checked += 1
            try:
                check(place)
            except DAMAGE as error:
                console.print(f"damaged: {error}", style="red", markup=False)
                damaged += not (fix_hint and name == "manifest.json" and _repaired(place, console))
    console.print(f"{checked} checked in {folder}, {damaged} damaged")
    return damaged


def _repaired(place: Path, console: Console) -> bool:
    try:
        taken = ", ".join(repair(place))
    except DAMAGE as error:
        console.print(f"not repaired: {error}", style="red", markup=False)
        return False
    console.print(f"taken out: {taken}; the next run records them", markup=False)
    return True


def main(arguments: list[str] | None = None) -> int:
    """1 where something is damaged still, 2 where there is no such folder, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m lrt.runtime.verify", description="Compares artifacts with their checksums."
    )
    parser.add_argument("--repair", action="store_true", help="take damaged files out of stores")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("artifacts"))
    asked = parser.parse_args(arguments)
    if not asked.folder.is_dir():
        parser.error(f"{asked.folder} is no folder; give that of the artifacts (paths.artifacts)")
    console = Console(soft_wrap=True)  # a path is not broken at the terminal's edge
    logging.getLogger("lrt").handlers = [RichHandler(console=console, show_path=False)]
    return int(verify(asked.folder, asked.repair, console) > 0)


if __name__ == "__main__":
    sys.exit(main())
