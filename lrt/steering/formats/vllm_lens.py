"""Steering requests of vllm-lens: the JSON of `extra_args["apply_steering_vectors"]`.

    [{"activations": {"data": base64, "dtype": "float32", "original_dtype": "torch.float32",
                      "shape": [n, d], "compression": "zstd"},
      "layer_indices": [18], "scale": 0.4, "norm_match": false, "position_indices": null}]

Row `i` is added to the output of block `layer_indices[i]`, times the scale.
Source: `vllm_lens/_helpers/types.py` and `_serialize.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.numbers import finite
from lrt.steering.formats.directions import Norm, directions_of, reading, vectors_of
from lrt.steering.vectors import SteeringVector
from lrt.storage.durable import write_durably
from lrt.storage.tensor_files import MOST_NUMBERS
from lrt.storage.text_files import read_json

# numpy's types in which a torch type may lie in the file; bfloat16 lies as the bits of an int16
_STORED = {
    "torch.float32": ("float32",),
    "torch.float64": ("float64",),
    "torch.float16": ("float16", "float32"),
    "torch.bfloat16": ("int16",),
}


def read_vllm_lens(
    path: Path, *, model: str, behaviour: str = "", residual_norm: Norm = "stored"
) -> list[SteeringVector]:
    """Read a request's vectors, or a list of requests', ordered by block.

    Strength 1 adds what the request adds, its row times its scale, unless a residual norm is given.

    Raises FileUnreadable for what is not JSON, VectorUnreadable for another layout, for two rows of one
    block, and for what is no addition at every position: `norm_match`, positions.
    """
    contents = read_json(Path(path))
    with reading(path, "a vllm-lens request"):
        directions: dict[int, Tensor] = {}
        for request in contents if isinstance(contents, list) else [contents]:
            for layer, direction in _rows(request):
                if layer in directions:
                    raise InvalidValue(f"it has two rows for block {layer!r:.80}")
                directions[layer] = direction
        return vectors_of(
            directions,
            source="a vllm-lens request",
            model=model,
            behaviour=behaviour,
            residual_norm=residual_norm,
        )


def write_vllm_lens(
    vectors: SteeringVector | Sequence[SteeringVector], path: Path, *, strength: float
) -> None:
    """Write a list of one request: the value of `apply_steering_vectors`, for JSON and for `model_validate`.

    strength  The scale in the file: our strength.

    Raises InvalidValue for vectors that cannot be put together (`directions_of`).
    """
    directions = directions_of(vectors, "a vllm-lens request")
    rows = torch.stack([*directions.values()]).numpy().astype("<f4")
    request = {
        "activations": {
            "data": base64.b64encode(zstandard.ZstdCompressor(level=1).compress(rows.tobytes())).decode(
                "ascii"
            ),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(rows.shape),
            "compression": "zstd",
        },
        "layer_indices": [*directions],
        "scale": finite("strength", strength),
        "norm_match": False,
        "position_indices": None,
    }
    write_durably(Path(path), json.dumps([request]).encode())


def _rows(request: Any) -> list[tuple[Any, Tensor]]:
    """Layer and what is added there."""
    if not isinstance(request, dict) or not {"activations", "layer_indices"} <= request.keys():
        raise InvalidValue("it is not a request with activations and layer_indices, nor a list of such")
    if request.get("norm_match", False) is not False:
        raise InvalidValue("norm_match is set: it adds another length at every token, which no vector says")
    if request.get("position_indices") is not None:
        raise InvalidValue("position_indices are set: a steering vector is added at every position")
    rows, layers = _tensor(request["activations"]), request["layer_indices"]
    if rows.ndim != 2 or not isinstance(layers, list) or len(layers) != len(rows):
        raise InvalidValue(
            f"its activations of shape {list(rows.shape)} must be [n, d], with n layer_indices, not "
            f"{layers!r:.80}"
        )
    for layer in layers:
        if type(layer) is not int:
            raise InvalidValue(f"layer {layer!r:.80} must be the number of a block, from 0 on")
    scale = finite("scale", request.get("scale", 1.0))
    return [(layer, row * scale) for layer, row in zip(layers, rows, strict=True)]


def _tensor(encoded: Any) -> Tensor:
    """A tensor of its base64 and layout; of zstandard as it is written now, or plain as by older releases."""
    if not isinstance(encoded, dict) or not isinstance(encoded.get("data"), str):
        raise InvalidValue("its activations have no base64 data")
    shape, dtype = encoded.get("shape"), encoded.get("dtype")
    kind = encoded.get("original_dtype", f"torch.{dtype}")
    sizes = [size for size in shape if type(size) is int and size >= 0] if isinstance(shape, list) else []
    if sizes != shape or len(sizes) > 3 or math.prod(sizes) > MOST_NUMBERS:
        raise InvalidValue(f"its shape {shape!r:.80} must be sizes of at most {MOST_NUMBERS:,} numbers")
    if not isinstance(kind, str) or dtype not in _STORED.get(kind, ()):
        raise InvalidValue(f"its dtype {dtype!r:.80} of original_dtype {kind!r:.80} must be one of {_STORED}")
    stored = np.dtype(dtype)
    numbers = np.frombuffer(_unpacked(encoded, math.prod(sizes) * stored.itemsize), stored.newbyteorder("<"))
    tensor = torch.from_numpy(numbers.astype(stored)).reshape(sizes)
    return (tensor.view(torch.bfloat16) if kind == "torch.bfloat16" else tensor).float()


def _unpacked(encoded: dict[str, Any], size: int) -> bytes:
    """The bytes of a tensor, which must be as many as its shape says; no more are unpacked."""
    try:
        data = base64.b64decode(encoded["data"], validate=True)
        match encoded.get("compression"):
            case None:
                pass
            case "zstd":
                with zstandard.ZstdDecompressor().stream_reader(BytesIO(data)) as reader:
                    data = reader.read(size + 1)
            case other:
                raise InvalidValue(f"its compression {other!r:.80} must be 'zstd' or absent")
    except (binascii.Error, zstandard.ZstdError, MemoryError) as error:
        raise InvalidValue(f"its data cannot be unpacked: {error}") from error
    if len(data) != size:
        raise InvalidValue(f"its data do not have the {size:,} bytes of their shape")
    return data
