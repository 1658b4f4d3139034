"""`artifacts/latest`: the newest run's maps, vectors, report and store by names that a person can type."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from lrt.evaluation import Behaviour
from lrt.pipeline.maps import Maps
from lrt.pipeline.states import RecordedStates, States
from lrt.storage.catalogue import LATEST, LATEST_MARK, slug
from lrt.storage.durable import remove

log = logging.getLogger(__name__)

MOST_COPIED = 2**30  # bytes


def results_of(maps: Maps, suite: Sequence[Behaviour], states: States) -> dict[str, Path]:
    """What a run leaves, by name: `map`, `map-PART`, `store`, `vectors/BEHAVIOUR-ROLE-layer-N`."""
    paths = {"map" if fit is maps.whole else f"map-{slug(fit.name)}": fit.folder for fit in maps.all}
    if isinstance(states, RecordedStates):
        paths["store"] = states.folder
    for behaviour in suite:
        vectors = maps.of(behaviour).folder / "vectors" / behaviour.contrast
        for folder in sorted(vectors.glob("*/layer-*")):
            paths[f"vectors/{slug(behaviour.contrast)}-{folder.parent.name}-{folder.name}"] = folder
    return paths


def point_latest(artifacts: Path, paths: Mapping[str, Path]) -> Path | None:
    """Makes `latest` under the artifacts point to these paths, in place of the run before; its path.

    They are links, or copies where the file system has none; what has over 1 GB is then skipped. Returns
    None, with a warning, where there is a folder of somebody else's or it cannot be written.
    """
    folder, new = artifacts / LATEST, artifacts / f".{LATEST}-{os.getpid()}"
    if folder.is_symlink() or (folder.exists() and not (folder / LATEST_MARK).is_file()):
        log.warning("%s was not made by a run, so it is left as it is; rename it", folder)
        return None
    try:
        remove(new)
        new.mkdir(parents=True)
        (new / LATEST_MARK).write_text(f"{paths['run']}\n" if "run" in paths else "\n")
        for name, path in paths.items():
            if path.exists():
                place = new / name
                place.parent.mkdir(parents=True, exist_ok=True)
                # a link is read from where the folder will be, which is as deep
                _point(place, path)
        remove(folder)
        new.rename(folder)
    except OSError as error:
        remove(new)
        log.warning("%s was not written: %s", folder, error)
        return None
    return folder


def _point(place: Path, path: Path) -> None:
    try:
        # both resolved: the artifacts may be a link to another disk
        place.symlink_to(os.path.relpath(path.resolve(), place.parent.resolve()), path.is_dir())
    except OSError:
        files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        if (size := sum(file.stat().st_size for file in files)) > MOST_COPIED:
            log.warning("%s has %.3g GB, and links are not possible, so %s lacks it", path, size / 1e9, place)
        elif path.is_dir():
            shutil.copytree(path, place)
        else:
            shutil.copy2(path, place)
