"""JSON and tensors that notice when they were altered: the contents beside their digest."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lrt.storage.durable import write_durably
from lrt.storage.text_files import parse_json

DIGEST = "digest"


class Altered(ValueError):
    """Contents that are not those their digest was taken of."""


def canonical(value: Any) -> str:
    """JSON in one spelling: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sealed(contents: Mapping[str, Any], *, allow_nan: bool = False) -> str:
    """A file's text, with a digest of its own.

    Raises TypeError or ValueError for what JSON cannot hold: nan and the infinities too unless they are
    allowed, as in records of measurements.
    """
    return json.dumps(_with_digest(contents, allow_nan), indent=1, sort_keys=True) + "\n"


def sealed_line(contents: Mapping[str, Any]) -> bytes:
    """The same on one line of jsonl, nan and the infinities allowed."""
    return canonical(_with_digest(contents, allow_nan=True)).encode() + b"\n"


def _with_digest(contents: Mapping[str, Any], allow_nan: bool) -> dict[str, Any]:
    plain = json.loads(json.dumps(contents, allow_nan=allow_nan))  # keys are texts then, tuples lists
    plain.pop(DIGEST, None)
    return {**plain, DIGEST: hashlib.sha256(canonical(plain).encode()).hexdigest()}


def opened(text: str | bytes) -> dict[str, Any]:
    """What a file of `sealed` says, its digest with it. Raises ValueError for what is no JSON object."""
    contents = parse_json(text, "it")
    if not isinstance(contents, dict):
        raise ValueError("it is not a JSON object")
    return contents


def unsealed(sealed_contents: Mapping[str, Any]) -> dict[str, Any]:
    """The contents alone. Raises Altered."""
    contents = {key: value for key, value in sealed_contents.items() if key != DIGEST}
    try:
        digest = hashlib.sha256(canonical(contents).encode()).hexdigest()
    except (UnicodeEncodeError, RecursionError) as error:
        raise Altered("it holds what this program never writes") from error
    if digest != sealed_contents.get(DIGEST):
        raise Altered("its contents do not match their digest")
    return contents


def write_sealed(path: Path, contents: Mapping[str, Any], *, allow_nan: bool = False) -> None:
    """Writes a file of `sealed`, wholly or not at all. Raises as that, and OSError."""
    write_durably(path, sealed(contents, allow_nan=allow_nan).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises ValueError for another file and an altered one, and OSError."""
    return unsealed(opened(read_file(path)))


def read_file(path: Path) -> bytes:
    """A file's bytes. Raises OSError for what is no regular file: a pipe or device could be read for ever."""
    check_regular(path)
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Raise FileNotFoundError unless a path is, or leads to, a regular file."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no regular file", str(path))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes one safetensors file, wholly or not at all, with a digest of its own, which it returns.

    safetensors by itself notices a truncated file, not a flipped bit. Raises OSError.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = _digest(plain)
    write_durably(path, lambda temporary: save_file(plain, temporary, metadata={DIGEST: digest}))
    return digest


def load_tensors(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """What `save_tensors` wrote, on the CPU.

    digest  What the file is known to hold; its own where none is given.

    Raises Altered, and what safetensors and the system raise.
    """
    check_regular(path)
    with safe_open(path, framework="pt") as file:
        stated = (file.metadata() or {}).get(DIGEST)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if _digest(tensors) != stated or (digest is not None and digest != stated):
        raise Altered("its tensors do not match their digest")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        hasher.update(tensor.flatten().view(torch.uint8).numpy().data)
    return hasher.hexdigest()
