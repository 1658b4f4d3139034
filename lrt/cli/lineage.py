"""A run's store, maps, vectors and report as W&B artifacts, each naming those that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from lrt.activations.store import MANIFEST
from lrt.pipeline.maps import MapFit, Maps
from lrt.pipeline.states import RecordedStates, States
from lrt.storage.catalogue import slug

LARGEST = 1e9
"""Bytes of a file that W&B gets; of a larger one it gets the path and checksum."""

MAP_FILES = ("mapping.json", "mapping.safetensors", "README.md")
"""What of a map's folder W&B gets; the sums of a forecast stay."""


@dataclass(frozen=True)
class Node:
    """One artifact of a run.

    fingerprint  Of everything that determines it: its alias, so that equal results are one version.
    made_of      The names of the artifacts that it was made of.
    files        By their names within the artifact.
    referenced   A folder that stays where it is; W&B gets the paths and sizes of its files.
    """

    name: str
    type: str
    fingerprint: str
    made_of: tuple[str, ...]
    files: dict[str, Path]
    referenced: Path | None = None

    def artifact(self) -> Any:
        """The same for W&B."""
        made = wandb.Artifact(
            self.name, self.type, metadata={"fingerprint": self.fingerprint, "made_of": list(self.made_of)}
        )
        for name, file in self.files.items():
            if file.stat().st_size > LARGEST:
                made.add_reference(file.resolve().as_uri(), name=name)
            else:  # a result is never written again, so it needs no copy
                made.add_file(str(file), name=name, policy="immutable", skip_cache=True)
        if self.referenced is not None:
            made.add_reference(self.referenced.resolve().as_uri(), name="store", checksum=False)
        return made


def nodes_of_maps(pair: str, maps: Maps, states: States) -> list[Node]:
    """The store, where there is one, and every map and its vectors."""
    store: tuple[str, ...] = ()
    nodes = []
    if isinstance(states, RecordedStates):
        store = (f"{slug(pair)}-store",)
        manifest = {MANIFEST: states.folder / MANIFEST}  # with the checksum of every shard
        nodes.append(Node(store[0], "store", states.fingerprint, (), manifest, states.folder))
    for fit in maps.all:
        name = _name_of(pair, fit)
        files = {path.name: path for path in (fit.folder / file for file in MAP_FILES) if path.is_file()}
        nodes.append(Node(name, "map", fit.fingerprint, store, files))
        if vectors := _below(fit.folder / "vectors"):
            nodes.append(Node(f"{name}-vectors", "vectors", fit.fingerprint, (name,), vectors))
    return nodes


def report_node(pair: str, report: Path, measurements: str, maps: Maps) -> Node:
    """The report, made of the vectors.

    measurements  The fingerprint of what it shows.
    """
    made_of = tuple(f"{_name_of(pair, fit)}-vectors" for fit in maps.all)
    return Node(f"{slug(pair)}-report", "report", measurements, made_of, _below(report))


def _name_of(pair: str, fit: MapFit) -> str:
    return f"{slug(pair)}-map-{slug(fit.name)}"


def log_nodes(run: Any, nodes: Sequence[Node]) -> None:
    """Logs the artifacts. A store that W&B's server can be asked about is an input of the run."""
    for node in nodes:
        if node.type == "store" and not run.offline:
            run.use_artifact(node.artifact(), aliases=[node.fingerprint])
        else:
            run.log_artifact(node.artifact(), aliases=[node.fingerprint])


def _below(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its path from there."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
