"""Names for what is costly: the hash of exactly what determines its bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of plain data and dataclasses; the first 32 hex digits name the
    artifact's folder."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digests(paths: tuple[str, ...]) -> list[tuple[str, str]]:
    """Name and SHA-256 of each file, or of all of a folder, in order.

    Content counts, and the place of a file below a folder that is given (readers tell splits by it). The
    place of what is given does not count.
    """
    digests = []
    for path in (Path(each).expanduser() for each in paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as opened:
                    name = file.name if file == path else file.relative_to(path).as_posix()
                    digests.append((name, hashlib.file_digest(opened, "sha256").hexdigest()))
    return digests


def tensor_digest(values: Tensor) -> str:
    """SHA-256 of a tensor's numbers as float32."""
    return hashlib.sha256(values.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a fingerprint")
