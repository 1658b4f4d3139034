"""The artifacts of a folder, found by their cards: what each is, from when, and a name for people.

Reads cards alone, and no tensors, so that listing them is fast. A card that cannot be read is still listed.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lrt.errors import InvalidValue

CARDS = {
    "mapping.json": "map",
    "vector.json": "vector",
    "manifest.json": "store",
    "sae.json": "autoencoder",
    "results.json": "report",
}
"""What a folder with this file is."""
LATEST = "latest"
"""Under the artifacts: the newest run's, by readable names. They are listed where they are made."""
LATEST_MARK = "run.txt"
"""In that folder: which run it is of. A folder without it is somebody else's."""
_LARGEST = 2**26  # bytes of a card that is read for a name


@dataclass(frozen=True)
class Artifact:
    """One artifact on the disk.

    name  Unique among those found together; of several alike the newest has the plain name, the next ends
          in `~2`.
    kind  One of the values of `CARDS`.
    path  Its folder.
    made  When its card was written.
    about  What it is, in a few words.
    """

    name: str
    kind: str
    path: Path
    made: datetime
    about: str


def artifacts_in(folder: Path) -> list[Artifact]:
    """Every artifact under a folder, newest first. Hidden folders and links are not entered."""
    cards = sorted(_cards(folder), key=lambda card: (-card.stat().st_mtime, str(card)))
    seen: Counter[str] = Counter()
    listed = []
    for card in cards:
        kind, place = CARDS[card.name], card.parent
        name, about = _described(kind, _content(card), place)
        seen[name] += 1
        name = f"{name}~{seen[name]}" if seen[name] > 1 else name
        listed.append(Artifact(name, kind, place, datetime.fromtimestamp(card.stat().st_mtime), about))
    return listed


def artifact_path(path_or_name: str | Path, folder: Path = Path(), kind: str = "") -> Path:
    """The path of a file or folder, or of the artifact of that name under `folder`.

    kind  Only artifacts of this kind.

    Raises InvalidValue that names those with a similar name.
    """
    path = Path(path_or_name).expanduser()
    if path.exists():
        return path
    listed = [each for each in artifacts_in(folder) if kind in ("", each.kind)]
    for each in listed:
        if each.name == str(path_or_name):
            return each.path
    similar = get_close_matches(str(path_or_name), [each.name for each in listed], cutoff=0.5)
    raise InvalidValue(
        f"{path_or_name} is neither a path nor the name of a{f' {kind}' if kind else 'n artifact'} here. "
        + (f"Similar: {', '.join(similar)}" if similar else "`lrt list` prints the names")
    )


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "unnamed"


def _cards(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not (here / name).is_symlink()
            and not (name == LATEST and (here / name / LATEST_MARK).is_file())
            and name not in ("node_modules", "site-packages")
        ]
        yield from (here / name for name in CARDS if name in files)


def _content(card: Path) -> Any:
    try:
        return json.loads(card.read_text()) if card.stat().st_size <= _LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None


def _described(kind: str, content: Any, place: Path) -> tuple[str, str]:
    """A name, not yet unique, and a few words. A card of another shape gets its folder's name."""
    try:
        match kind:
            case "map":
                return _map(content["card"])
            case "vector":
                return _vector(content["vector"])
            case "store":
                return _store(content)
            case "autoencoder":
                return slug(place.name), "sparse autoencoder"
            case _:
                return _report(content, place)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        return slug(place.name), "its card cannot be read; `lrt inspect` says why"


def _map(card: Mapping[str, Any]) -> tuple[str, str]:
    layers = [_numbers(card["layers"][side]) for side in ("source", "target")]
    names = [card["models"][side].get("name") for side in ("source", "target")]
    for each in card.get("beside", ()):  # further source models
        names[0], layers[0] = f"{names[0]}+{each['name']}", f"{layers[0]}+{_numbers(each['layers'])}"
    parts = "+".join(card["corpus"].get("parts") or ())
    if all(names):
        pair = f"{names[0]} layer {layers[0]} -> {names[1]} layer {layers[1]}"
        name = f"{names[0]}-{layers[0]}-to-{names[1]}-{layers[1]}"
    else:  # of a run
        pair = f"{card['pair']}, layers {layers[0]} -> {layers[1]}"
        name = f"{card['pair'].replace('->', 'to')}-{layers[0]}-to-{layers[1]}"
    fvu = [f"FVU {card['metrics']['fvu']:.3g}"] if "metrics" in card else ["every pair of layers"]
    about = ", ".join([pair, *([parts] if parts else []), *fvu])
    return slug(f"{name}-{parts}" if parts else name), about


def _vector(card: Mapping[str, Any]) -> tuple[str, str]:
    made = "transferred" if card.get("map") else "extracted"
    name = slug(f"{card['behaviour'] or 'vector'}-{card['model']}-{card['layer']}")
    about = f"{card['behaviour'] or 'vector'}: {card['model']} layer {card['layer']}, {made}"
    return f"{name}-transferred" if card.get("map") else name, about


def _store(manifest: Mapping[str, Any]) -> tuple[str, str]:
    rows = sum(manifest["rows"].values())
    return "store", f"hidden states of {rows:,} tokens"


def _report(results: Mapping[str, Any], place: Path) -> tuple[str, str]:
    pair = results["pair"]["name"]
    if place.name != "report":
        return slug(f"report-{place.name}"), f"report of {pair}"
    return slug(f"report-{place.parent.name}"), f"report of {pair}"


def _numbers(layers: Any) -> str:
    """Layers as text; more than two consecutive ones as a range."""
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}..{layers[-1]}"
    return "+".join(map(str, layers))
