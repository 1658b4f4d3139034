"""Tensors beside a card that tells where they come from, as maps and autoencoders lie on a disk.

The card carries the tensors' checksum, since safetensors notices a truncated file but not a flipped
byte, and its own. It is written last and removed first, so that a folder either holds a whole artifact or
none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lrt.storage.durable import sync_folder, write_durably
from lrt.storage.sealed import Altered, opened, sealed, unsealed

T = TypeVar("T")
LARGEST_CARD = 2**28  # bytes


@dataclass(frozen=True)
class ArtifactKind:
    """What one kind of artifact is called, and what is raised where it cannot be used.

    name, article  Of messages: "a map".
    entry          The card's entry that describes the tensors.
    needed         Keys of that entry without which the tensors cannot be used.
    missing        There is no card.
    corrupt        The files are damaged: truncated, altered, or one of them gone.
    foreign        The files are something else than this kind in this version.
    """

    name: str
    article: str
    entry: str
    format: str
    version: int
    weights_file: str
    card_file: str
    missing: type[Exception]
    corrupt: type[Exception]
    foreign: type[Exception]
    needed: tuple[str, ...] = ()


def save_artifact(
    kind: ArtifactKind,
    folder: Path,
    tensors: Mapping[str, Tensor],
    described: Mapping[str, Any],
    card: Mapping[str, Any],
) -> None:
    """Write tensors and their card, replacing those that are there.

    `described` tells what the tensors are, `card` where they come from, both in plain containers. Raises
    TypeError or ValueError for what JSON cannot hold, before anything is written, and OSError where the
    folder cannot be written.
    """
    weights = save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    content = {
        "format": kind.format,
        "version": kind.version,
        kind.entry: described,
        "weights": {
            "file": kind.weights_file,
            "bytes": len(weights),
            "sha256": hashlib.sha256(weights).hexdigest(),
        },
        "card": card,
    }
    text = sealed(content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / kind.card_file).unlink(missing_ok=True)
    sync_folder(folder)
    write_durably(folder / kind.weights_file, weights)
    write_durably(folder / kind.card_file, text.encode())


def load_artifact(
    kind: ArtifactKind,
    folder: Path,
    build: Callable[[dict[str, Tensor], dict[str, Any]], T],
    fix_hint: str = "",
) -> tuple[T, dict[str, Any]]:
    """What `build` makes of the tensors in `folder` and the needed keys, and the card that was given.

    Checked against the card, on the CPU. `fix_hint` is a sentence for the error message: what makes the
    artifact again, such as the command line. Raises the kind's exceptions; KeyError, TypeError or
    ValueError of `build` are foreign files.
    """

    def problem(error: type[Exception], text: str) -> Exception:
        return error(f"{text}. {fix_hint}" if fix_hint else text)

    card_path, weights_path = folder / kind.card_file, folder / kind.weights_file
    if not card_path.is_file():
        raise problem(kind.missing, f"there is no {kind.name} in {folder} ({kind.card_file} is not there)")
    if card_path.stat().st_size > LARGEST_CARD:
        raise problem(kind.corrupt, f"{card_path} has more than {LARGEST_CARD:,} bytes, so it is no card")
    try:
        content = opened(card_path.read_bytes())
    except ValueError as error:
        raise problem(kind.corrupt, f"{card_path} cannot be read: {error}") from error
    if content.get("format") != kind.format:
        raise problem(kind.foreign, f"{card_path} is not the card of {kind.article} {kind.name}")
    if content.get("version") != kind.version:
        raise problem(
            kind.foreign,
            f"{card_path} has version {content.get('version')!r}, this program reads {kind.version}",
        )
    try:
        content = unsealed(content)
    except Altered as error:
        raise problem(kind.corrupt, f"{card_path} was altered: {error}") from error
    try:
        wanted, size = content["weights"]["sha256"], content["weights"]["bytes"]
        card, described = content["card"], {name: content[kind.entry][name] for name in kind.needed}
    except (KeyError, TypeError) as error:
        raise problem(kind.corrupt, f"{card_path} lacks its {error} entry") from error
    if not weights_path.is_file():
        raise problem(kind.corrupt, f"{weights_path} is gone, though its card is there")
    if (present := weights_path.stat().st_size) != size:
        raise problem(kind.corrupt, f"{weights_path} has {present} bytes, its card says {size}")
    data = weights_path.read_bytes()
    if hashlib.sha256(data).hexdigest() != wanted:
        raise problem(kind.corrupt, f"{weights_path} does not have the checksum that its card says")
    try:
        return build(load_tensors(data), described), card
    # RuntimeError, ArithmeticError: shapes that no tensor can have
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        message = f"{weights_path} does not hold {kind.article} {kind.name}: {error}"
        raise problem(kind.foreign, message) from error
