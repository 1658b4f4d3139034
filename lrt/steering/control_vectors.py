"""Steering vectors as GGUF control vectors, which llama.cpp and repeng read and write.

Such a file has a float32 tensor `direction.N` for each decoder block, `N` being the zero-based block whose
output it is added to. A server multiplies it by a scale. llama.cpp adds nothing at block 0.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lrt.errors import InvalidValue, UserError
from lrt.steering.vectors import SteeringVector, VectorUnreadable
from lrt.storage.durable import write_durably
from lrt.storage.gguf_file import check_gguf
from lrt.storage.sealed import opened, sealed, unsealed

log = logging.getLogger(__name__)

ARCHITECTURE = "controlvector"
UNIT = "length in the control vector's file"
CARD = "lrt.card"
_CARD_FIELDS = ("behaviour", "method", "prompts", "unit", "map")


class PackageMissing(UserError, ImportError):
    """An optional package is not installed; the message names the command that installs it."""


def write_control_vector(vectors: SteeringVector | Sequence[SteeringVector], file: Path) -> None:
    """Write one vector, or one for each of several blocks of a model, as a GGUF control vector.

    The directions are one median residual norm long, so the file's scale
    (`--control-vector-scaled FILE:0.5`) is our strength. Provenance is stored in the file too.

    Raises InvalidValue for vectors that such a file cannot hold (block 0, two of one block, several
    models or behaviours, an operation other than adding, one of length 0), PackageMissing without the
    package gguf.
    """
    vectors = [vectors] if isinstance(vectors, SteeringVector) else list(vectors)
    if not vectors:
        raise InvalidValue("a control vector needs at least one steering vector; got none")
    first, layers = vectors[0], [vector.layer for vector in vectors]
    if 0 in layers:
        raise InvalidValue(
            f"the steering vector {first.behaviour!r} is of block 0, where llama.cpp adds no control vector; "
            "use one of a block from 1 on"
        )
    if len(set(layers)) < len(layers):
        raise InvalidValue(f"a control vector must have one direction a block; got blocks {layers}")
    kinds = {(vector.model, vector.behaviour, len(vector.direction)) for vector in vectors}
    if len(kinds) > 1:
        raise InvalidValue(
            "a control vector must have one model and behaviour; got (model, behaviour, width) "
            f"{sorted(kinds)}"
        )
    if other := [vector.operation for vector in vectors if vector.operation != "add"]:
        raise InvalidValue(f"operation={other[0]!r}: control vectors can only be added")
    for vector in vectors:
        if not vector.residual_norm > 0:
            raise InvalidValue(f"{vector!r} has residual_norm=0, so its direction in the file would be zero")
    gguf = _gguf()
    directions = {vector.layer: vector.scaled().float().cpu().numpy() for vector in vectors}
    card = sealed(
        {
            "vectors": {str(v.layer): {name: getattr(v, name) for name in _CARD_FIELDS} for v in vectors},
            "sha256": _digest(first.model, directions),
        }
    )

    def write(path: Path) -> None:
        writer = gguf.GGUFWriter(path, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", first.model)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        writer.add_string(CARD, card)
        for layer, direction in directions.items():
            writer.add_tensor(f"direction.{layer}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_durably(Path(file), write)


def read_control_vector(file: Path, *, model: str | None = None) -> list[SteeringVector]:
    """Read the directions of a GGUF control vector, ordered by block; strength 1 adds each unscaled.

    A direction of zeros, which adds nothing at its block, is skipped with a log line.

    model  Name of the model; by default the file's hint (repeng writes the model's type alone).

    Raises VectorUnreadable naming the file and the fault, PackageMissing without the package gguf.
    """
    gguf = _gguf()
    try:
        check_gguf(Path(file))
        reader = gguf.GGUFReader(file)
        texts = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: (tensor.tensor_type.name, np.array(tensor.data)) for tensor in reader.tensors}
    except Exception as error:  # damaged bytes make the reader stumble over anything
        raise VectorUnreadable(f"cannot read a control vector from {file}: {error}") from error
    if texts.get("general.architecture") != ARCHITECTURE:
        raise VectorUnreadable(
            f"{file} is not a control vector: its architecture is {texts.get('general.architecture')!r}, not "
            f"{ARCHITECTURE!r}"
        )
    try:
        directions = {_block(name): _floats(name, *tensors[name]) for name in tensors}
        if len(widths := {direction.shape for direction in directions.values()}) > 1:
            raise ValueError(f"its directions have different shapes, {sorted(widths)}")
        hint, cards = texts.get(f"{ARCHITECTURE}.model_hint", ""), dict[str, Any]()
        if CARD in texts:
            card = unsealed(opened(texts[CARD].encode()))
            if card["sha256"] != _digest(hint, directions):
                raise ValueError("it is damaged: its directions do not match its card's checksum")
            cards = card["vectors"]
        vectors = [
            SteeringVector(
                torch.from_numpy(directions[layer]),
                layer,
                model or hint,
                float(np.linalg.norm(directions[layer].astype(np.float64))),
                **({"method": "read from a file", "unit": UNIT} | cards.get(str(layer), {})),
            )
            for layer in sorted(directions)
            if directions[layer].any()
        ]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise VectorUnreadable(f"cannot read the control vector in {file}: {error}") from error
    if not vectors:
        raise VectorUnreadable(f"the control vector in {file} has no tensor direction.N that is not zero")
    if zero := sorted({*directions} - {vector.layer for vector in vectors}):
        log.info("%s: directions of blocks %s are zero and were skipped", file, zero)
    return vectors


def _block(name: str) -> int:
    """The block number N of a tensor `direction.N`."""
    prefix, _, number = name.partition(".")
    if prefix != "direction" or not re.fullmatch("0|[1-9][0-9]{0,8}", number):
        raise ValueError(
            f"its tensor {name[:80]!r} must be named direction.N, N a block without leading zeros"
        )
    return int(number)


def _floats(name: str, kind: str, data: NDArray[Any]) -> NDArray[np.float32]:
    """A tensor's numbers as float32; gguf returns other types as raw bytes."""
    if kind not in ("F32", "F16"):
        raise ValueError(f"its tensor {name!r} is {kind}; it must be F32 or F16")
    return data.astype(np.float32)


def _digest(model: str, directions: Mapping[int, NDArray[np.float32]]) -> str:
    """SHA-256 over the model's name and the directions by block."""
    digest = hashlib.sha256(model.encode())
    for layer in sorted(directions):
        digest.update(f"{layer}:".encode() + directions[layer].astype("<f4").tobytes())
    return digest.hexdigest()


def _gguf() -> Any:
    if find_spec("gguf") is None:
        raise PackageMissing("control vectors need the package gguf; install it: pip install -e '.[gguf]'")
    import gguf

    return gguf
