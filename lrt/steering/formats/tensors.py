"""Plain tensors in a safetensors, npz, npy or torch file. Such a file says nothing but numbers.

Layer, hook point, length and model are asked for: none of them can be seen from a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.steering.formats.directions import Norm, directions_of, reading, vectors_of
from lrt.steering.vectors import SteeringVector
from lrt.storage.durable import write_durably
from lrt.storage.tensor_files import floats, read_numpy, read_safetensors, read_torch

HookPoint = Literal["block output", "block input"]
Layer = int | Sequence[int] | str
NAMES = "layer.{}"
SUFFIXES = (".safetensors", ".npz", ".npy", ".pt", ".pth", ".bin")


def read_tensors(
    path: Path,
    *,
    layer: Layer,
    hook_point: HookPoint,
    residual_norm: Norm,
    model: str,
    tensor: str | None = None,
    behaviour: str = "",
) -> list[SteeringVector]:
    """Read directions from a file of plain tensors, ordered by block.

    layer          Of one `[d]` its layer; of one `[n, d]` the layers of its n rows; of several tensors their
                   names with `{}` for the number, such as "layer.{}". Tensors of other names are skipped.
    hook_point     "block output": the numbers are of the residual stream after the block (`resid_post`).
                   "block input": of the stream before it (`resid_pre`, or an index into transformers'
                   `hidden_states`), which is the output of the block before.
    residual_norm  "stored": strength 1 adds a direction at its stored length. A number, or one by block: the
                   residual stream's norm, which strength 1 then adds.
    tensor         The tensor's name, in a file of several, where `layer` is no pattern.

    Raises TensorsUnreadable and VectorUnreadable naming the file and the fault, InvalidValue for a wrong
    argument.
    """
    path = Path(path)
    if hook_point not in get_args(HookPoint):
        raise InvalidValue(f"hook_point={hook_point!r} must be one of {list(get_args(HookPoint))}")
    tensors = _load(path)
    with reading(path, "steering vectors"):
        numbered = _numbered(tensors, layer, tensor)
        if hook_point == "block input":
            if 0 in numbered:
                raise InvalidValue(
                    "layer 0 with hook_point='block input' is the embeddings, no block's output"
                )
            numbered = {number - 1: direction for number, direction in numbered.items()}
        return vectors_of(
            numbered,
            source=f"a {path.suffix} file",
            model=model,
            behaviour=behaviour,
            residual_norm=residual_norm,
        )


def write_tensors(vectors: SteeringVector | Sequence[SteeringVector], path: Path) -> None:
    """Write tensors `layer.N`, of block N's output and one residual norm long.

    The suffix says the kind of file. An npy file holds one vector alone.

    Raises InvalidValue for vectors that cannot be put together (`directions_of`), and another suffix.
    """
    path = Path(path)
    tensors = {NAMES.format(n): d for n, d in directions_of(vectors, "a file of tensors").items()}
    match path.suffix:
        case ".safetensors":
            write_durably(path, lambda temporary: save_file(tensors, temporary))
        case ".npz":
            write_durably(path, lambda temporary: _save_npz(temporary, tensors))
        case ".npy" if len(tensors) > 1:
            raise InvalidValue(f"{path} holds one vector, got {len(tensors)}; write an npz file")
        case ".npy":
            (only,) = tensors.values()
            write_durably(path, lambda temporary: _save_npy(temporary, only))
        case ".pt" | ".pth" | ".bin":
            write_durably(path, lambda temporary: torch.save(tensors, temporary))
        case _:
            raise InvalidValue(f"{path} must end in one of {', '.join(SUFFIXES)}")


def _save_npz(path: Path, tensors: Mapping[str, Tensor]) -> None:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    with path.open("wb") as file:  # given a path, numpy appends a suffix
        np.savez(file, **arrays)


def _save_npy(path: Path, tensor: Tensor) -> None:
    with path.open("wb") as file:
        np.save(file, tensor.numpy())


def _load(path: Path) -> dict[str, Any]:
    match path.suffix:
        case ".safetensors":
            return dict(read_safetensors(path))
        case ".npz" | ".npy":
            return dict(read_numpy(path))
        case ".pt" | ".pth" | ".bin":
            contents = read_torch(path)
            return contents if isinstance(contents, dict) else {"tensor": contents}
        case _:
            raise InvalidValue(f"{path} must end in one of {', '.join(SUFFIXES)}")


def _numbered(tensors: Mapping[Any, Any], layer: Layer, name: str | None) -> dict[int, Any]:
    """Directions by the number that the user's `layer` gives them."""
    names = [str(each)[:80] for each in tensors][:20]
    if isinstance(layer, str):
        if layer.count("{}") != 1 or name is not None:
            raise InvalidValue(
                f"layer={layer!r}, tensor={name!r}: a pattern has '{{}}' once, with no tensor named beside it"
            )
        pattern = re.compile(r"(0|[1-9][0-9]{0,8})".join(map(re.escape, layer.split("{}"))))
        matches = ((pattern.fullmatch(str(each)), tensors[each]) for each in tensors)
        numbered = {int(match[1]): direction for match, direction in matches if match}
        if not numbered:
            raise InvalidValue(f"layer={layer!r} matches none of its tensors {names}")
        return numbered
    if name is None and len(tensors) != 1:
        raise InvalidValue(
            f"it has {len(tensors)} tensors; name one (tensor=), or a pattern (layer=): {names}"
        )
    if name is not None and name not in tensors:
        raise InvalidValue(f"tensor={name!r} is not one of its tensors {names}")
    direction = next(iter(tensors.values())) if name is None else tensors[name]
    if isinstance(layer, int):
        return {layer: direction}
    if not isinstance(layer, list | tuple | range) or any(type(each) is not int for each in layer):
        raise InvalidValue(
            f"layer={layer!r} must be a layer, a list with one for each row, or a pattern of names"
        )
    rows, layers = floats(direction, "the tensor"), [*layer]
    if rows.ndim != 2 or len(rows) != len(layers) or len(set(layers)) < len(layers):
        raise InvalidValue(
            f"layer={layers}: the tensor of shape {list(rows.shape)} needs a layer for each row, each once"
        )
    return dict(zip(layers, rows, strict=True))
