"""Steering vectors as GGUF control vectors, which llama.cpp and repeng read and write.

Such a file has a float32 tensor `direction.N` for each decoder block, `N` being the zero-based block whose
output it is added to. A server multiplies it by a scale. llama.cpp adds nothing at block 0.

llama.cpp's own generator is one off: `direction.N` of its files was read at the output of block N-1.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from lrt.errors import InvalidValue
from lrt.steering.formats.directions import (
    Norm,
    PackageMissing,
    directions_of,
    listed,
    reading,
    vectors_of,
)
from lrt.steering.vectors import SteeringVector, VectorUnreadable
from lrt.storage.durable import write_durably
from lrt.storage.gguf_file import GgufDamaged, check_gguf
from lrt.storage.sealed import opened, sealed, unsealed
from lrt.storage.tensor_files import TensorsUnreadable, check_size

log = logging.getLogger(__name__)

ARCHITECTURE = "controlvector"
CARD = "lrt.card"
Convention = Literal["block", "cvector-generator"]
_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,8})")  # one spelling of each number
_CARD_FIELDS = ("behaviour", "method", "prompts", "unit", "map")


def write_control_vector(vectors: SteeringVector | Sequence[SteeringVector], file: Path) -> None:
    """Write one vector, or one for each of several blocks of a model, as a GGUF control vector.

    The directions are one median residual norm long, so the file's scale
    (`--control-vector-scaled FILE:0.5`) is our strength. `direction.N` is of block N, where llama.cpp and
    repeng add it. Provenance is stored in the file too.

    Raises InvalidValue for vectors that such a file cannot hold (block 0, two of one block, several
    models or behaviours, an operation other than adding, one of length 0), PackageMissing without the
    package gguf.
    """
    vectors = listed(vectors)
    directions = {layer: d.numpy() for layer, d in directions_of(vectors, "a control vector").items()}
    first = vectors[0]
    if 0 in directions:
        raise InvalidValue(
            f"the steering vector {first.behaviour!r} is of block 0, where llama.cpp adds no control vector; "
            "use one of a block from 1 on"
        )
    gguf = _gguf()
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


def read_control_vector(
    file: Path,
    *,
    model: str | None = None,
    convention: Convention | None = None,
    behaviour: str = "",
    residual_norm: Norm = "stored",
) -> list[SteeringVector]:
    """Read the directions of a GGUF control vector, ordered by block; strength 1 adds each unscaled.

    A direction of zeros, which adds nothing at its block, is skipped with a log line. A file that
    `write_control_vector` wrote says everything itself.

    model       Name of the model, for files of other software: their hint is a model's type (`qwen2`).
                Of a file of ours, another name of its model.
    convention  For files of other software. "block": `direction.N` is of block N's output, where llama.cpp,
                repeng and EasySteer add it (default; the log says so). "cvector-generator": `direction.N` is
                of block N-1's output, as llama.cpp's own generator names it. llama.cpp adds such a direction
                at block N, one block after it was read. Transfer it from the block where it was read.

    Raises VectorUnreadable naming the file and the fault, such as a missing model or an argument that
    contradicts the file, InvalidValue for another convention, PackageMissing without the package gguf.
    """
    gguf, file = _gguf(), Path(file)
    if convention not in (None, *get_args(Convention)):
        raise InvalidValue(f"convention={convention!r} must be one of {list(get_args(Convention))}")
    try:
        check_size(file)
        architecture = check_gguf(file).metadata.get("general.architecture")
    except (TensorsUnreadable, GgufDamaged) as error:
        raise VectorUnreadable(f"cannot read a control vector from {file}: {error}") from error
    if architecture != ARCHITECTURE:  # such as a model, whose tensors would fill the memory
        raise VectorUnreadable(
            f"{file} is not a control vector: its architecture is {architecture!r:.80}, not {ARCHITECTURE!r}"
        )
    try:
        reader = gguf.GGUFReader(file)
        texts = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: (tensor.tensor_type.name, np.array(tensor.data)) for tensor in reader.tensors}
    except Exception as error:  # damaged bytes make the reader stumble over anything
        raise VectorUnreadable(f"cannot read a control vector from {file}: {error}") from error
    hint = texts.get(f"{ARCHITECTURE}.model_hint", "")
    with reading(file, "a control vector"):
        directions = {_block(name): _floats(name, *tensors[name]) for name in tensors}
        cards = _cards(texts[CARD], hint, directions) if CARD in texts else None
        if cards is None:
            directions, model = _of_other_software(file, directions, hint, model, convention)
        else:
            _check_own(convention=convention, behaviour=behaviour, residual_norm=residual_norm)
        vectors = vectors_of(
            {layer: torch.from_numpy(direction) for layer, direction in directions.items()},
            source="a GGUF control vector",
            model=model or hint,
            behaviour=behaviour,
            residual_norm=residual_norm,
        )
        return [replace(vector, **(cards or {}).get(str(vector.layer), {})) for vector in vectors]


def _of_other_software(
    file: Path,
    directions: dict[int, NDArray[np.float32]],
    hint: str,
    model: str | None,
    convention: Convention | None,
) -> tuple[dict[int, NDArray[np.float32]], str]:
    """The directions by the block that they are of, and the model's name."""
    if not model:
        raise InvalidValue(
            f"model= is missing: name the model that the vector is of. The file's hint, {hint!r:.80}, may be "
            "a model's type alone"
        )
    if convention == "cvector-generator":
        if 0 in directions:
            raise InvalidValue(
                "convention='cvector-generator' names block N-1's output direction.N, so that it has no "
                "direction.0; this file has one"
            )
        log.info("%s: direction.N is taken as of block N-1 (convention='cvector-generator')", file)
        return {number - 1: direction for number, direction in directions.items()}, model
    log.info(
        "%s: direction.N is taken as of block N (convention='block'). If llama.cpp's cvector-generator wrote "
        "the file, read it with convention='cvector-generator'",
        file,
    )
    return directions, model


def _check_own(**arguments: Any) -> None:
    """Raise InvalidValue for an argument that a file of `write_control_vector` answers itself."""
    answers: dict[str, tuple[Any, ...]] = {
        "convention": (None, "block"),
        "behaviour": ("",),
        "residual_norm": ("stored",),
    }
    for name, value in arguments.items():
        if value not in answers[name]:
            raise InvalidValue(f"{name}={value!r}: the file says it itself, since lrt wrote it; omit {name}")


def _cards(card: str, hint: str, directions: Mapping[int, NDArray[np.float32]]) -> dict[str, Any]:
    """Our own fields of each vector by block. Raises ValueError for a damaged file."""
    try:
        contents = unsealed(opened(card.encode()))
        if contents["sha256"] != _digest(hint, directions):
            raise ValueError("it is damaged: its directions do not match its card's checksum")
        cards = contents["vectors"].items()
        return {layer: {name: fields[name] for name in _CARD_FIELDS} for layer, fields in cards}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its card is not one of this program: {error!r}") from error


def _block(name: str) -> int:
    """The block number N of a tensor `direction.N`."""
    named = _NAME.fullmatch(name)
    if named is None:
        raise ValueError(f"its tensor {name[:80]!r} must be named direction.N")
    return int(named[1])


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
