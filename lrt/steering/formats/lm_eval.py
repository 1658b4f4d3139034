"""Files of lm-evaluation-harness' model `steered`: a `.pt` with one entry for each hooked module.

    {"layers.18": {"steering_vector": Tensor, "steering_coefficient": float, "action": "add", "bias": None,
                   "head_index": None}}

The key is a module's name under `model.base_model`. Every position of every pass is steered.
Source: `lm_eval/models/hf_steered.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.numbers import finite
from lrt.steering.formats.directions import Norm, directions_of, reading, vectors_of
from lrt.steering.vectors import SteeringVector
from lrt.storage.durable import write_durably
from lrt.storage.tensor_files import floats, read_torch

_BLOCK = re.compile(r"(?:[A-Za-z_]\w*\.)*(?:layers|layer|h|blocks|block)\.(0|[1-9][0-9]{0,8})")
_LIST = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_ALLOWED = {"bias": None, "head_index": None}


def read_lm_eval(
    path: Path, *, model: str, behaviour: str = "", residual_norm: Norm = "stored"
) -> list[SteeringVector]:
    """Read the vectors that a file adds at the outputs of blocks, ordered by block.

    Strength 1 adds what the file adds, its vector times its coefficient, unless a residual norm is given.

    Raises TensorsUnreadable and VectorUnreadable naming the file and the fault: an action other than "add", a
    bias, an attention head, a module that is no block.
    """
    contents = read_torch(path)
    with reading(path, "an lm-eval file"):
        if not isinstance(contents, dict) or not contents:
            raise InvalidValue("it is not a dict with an entry for each hooked module")
        directions: dict[int, Tensor] = {}
        for module, entry in contents.items():
            layer = _layer(module)
            if layer in directions:
                raise InvalidValue(f"it has two entries for block {layer}")
            directions[layer] = _added(module, entry)
        return vectors_of(
            directions,
            source="an lm-eval file",
            model=model,
            behaviour=behaviour,
            residual_norm=residual_norm,
        )


def write_lm_eval(
    vectors: SteeringVector | Sequence[SteeringVector], path: Path, *, strength: float, blocks: str
) -> None:
    """Write a file for `lm_eval --model steered --model_args pretrained=MODEL,steer_path=FILE`.

    strength  The coefficient in the file, which lm-eval cannot change: our strength.
    blocks    Name of the model's list of blocks under `model.base_model`: `layers` (Llama, Qwen, Gemma,
              GPT-NeoX), `h` (GPT-2), `decoder.layers` (OPT).

    Raises InvalidValue for vectors that cannot be put together (`directions_of`), and a path that does not
    end in `.pt` or `.pth`.
    """
    path, strength = Path(path), finite("strength", strength)
    if path.suffix not in (".pt", ".pth"):
        raise InvalidValue(f"{path} must end in .pt or .pth: lm-eval reads no other")
    if not isinstance(blocks, str) or not _LIST.fullmatch(blocks):
        raise InvalidValue(f"blocks={blocks!r} must be the name of the model's list of blocks, as 'layers'")
    contents = {
        f"{blocks}.{layer}": {
            "steering_vector": direction,
            "steering_coefficient": strength,
            "action": "add",
            **_ALLOWED,
        }
        for layer, direction in directions_of(vectors, "an lm-eval file").items()
    }
    write_durably(path, lambda temporary: torch.save(contents, temporary))


def _layer(module: Any) -> int:
    named = _BLOCK.fullmatch(module) if isinstance(module, str) else None
    if named is None:
        raise InvalidValue(
            f"its module {module!r:.80} is no block (as 'layers.18' is), so that its vector is not of a "
            "block's output"
        )
    return int(named[1])


def _added(module: str, entry: Any) -> Tensor:
    """What an entry adds at every position."""
    if not isinstance(entry, dict) or "action" not in entry or "steering_vector" not in entry:
        raise InvalidValue(f"{module} has no action and steering_vector")
    if entry["action"] != "add":
        raise InvalidValue(f"{module} has action={entry['action']!r:.80}; only 'add' is a steering vector")
    for name in _ALLOWED:
        if entry.get(name) is not None:
            raise InvalidValue(
                f"{module} has a {name}; only vectors of the whole residual stream can be used"
            )
    coefficient = entry.get("steering_coefficient", 1.0)
    if isinstance(coefficient, Tensor) and coefficient.numel() == 1:
        coefficient = float(floats(coefficient, f"{module}: steering_coefficient"))
    vector = floats(entry["steering_vector"], f"{module}: steering_vector")
    return vector * finite(f"{module}: steering_coefficient", coefficient)
