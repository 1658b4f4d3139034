"""Tensors as other people write them: safetensors, numpy's npy and npz, and torch's files.

No pickle is executed: torch's files are read with `weights_only`, numpy's without objects. Sizes are bounded.
Whatever cannot be read raises `TensorsUnreadable`, which names the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lrt.errors import InvalidValue

MOST_BYTES = 2**28  # of a file, unpacked
MOST_NUMBERS = 2**26  # of a tensor


class TensorsUnreadable(InvalidValue):
    """A file of tensors that is missing, damaged or not plain; the message names the file and the fault."""


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises `TensorsUnreadable`."""
    check_size(path)
    try:
        return load_file(path)
    except Exception as error:  # damaged bytes make the reader stumble over anything
        raise TensorsUnreadable(f"cannot read tensors from {path}: {error}") from error


def read_numpy(path: Path) -> dict[str, Tensor]:
    """The arrays of an npz file by name, or the one of an npy file under the name `array`.

    Raises `TensorsUnreadable`, also for arrays of objects, which numpy would unpickle.
    """
    check_size(path)
    try:
        if zipfile.is_zipfile(path):
            _check_unpacked(path)
        elif path.open("rb").read(6) != b"\x93NUMPY":
            raise ValueError("it is neither an npy nor an npz file")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"array": torch.from_numpy(loaded)}
        with loaded:
            return {name: torch.from_numpy(loaded[name]) for name in loaded.files}
    except Exception as error:  # damaged bytes make the reader stumble over anything
        raise TensorsUnreadable(f"cannot read arrays from {path}: {error}") from error


def read_torch(path: Path, stand_ins: Sequence[type] = ()) -> Any:
    """What a file of `torch.save` holds, on the CPU: tensors in plain containers, and nothing that runs code.

    stand_ins  Classes of ours with the module and name of another package's. Each takes the attributes of
               that package's objects, which are then read without its code.

    Raises `TensorsUnreadable`, also for other classes and for files of torch before 1.6, which state sizes
    that they need not have.
    """
    check_size(path)
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a file of torch.save (a plain pickle, or of torch before 1.6)")
        _check_unpacked(path)
        with torch.serialization.safe_globals([*stand_ins]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader stumble over anything
        reason = str(error).strip().partition("\n")[0][:500]
        raise TensorsUnreadable(
            f"cannot read {path} with weights_only: {reason}. It may hold tensors, numbers and texts in "
            "dicts and lists; save those alone with torch.save, or use safetensors"
        ) from error


def floats(value: Any, name: str) -> Tensor:
    """A tensor in float32, detached. Raises ValueError for all but dense floating tensors on the CPU."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; it must be a tensor")
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_nested
    if not dense or not value.dtype.is_floating_point:
        raise ValueError(
            f"{name} is {value.dtype} ({value.layout}, {value.device}); it must be dense and floating-point"
        )
    # an expanded tensor has more numbers than its file
    if value.numel() > MOST_NUMBERS:
        raise ValueError(f"{name} has {value.numel():,} numbers; at most {MOST_NUMBERS:,} allowed")
    return value.detach().to(torch.float32)


def check_size(path: Path) -> None:
    """Raise `TensorsUnreadable` for what is no file, and for one over `MOST_BYTES`."""
    if not path.is_file():
        raise TensorsUnreadable(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise TensorsUnreadable(f"{path} has {size:,} bytes; at most {MOST_BYTES:,} allowed")


def _check_unpacked(path: Path) -> None:
    """Raise ValueError for an archive that unpacks to more than is allowed."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > MOST_BYTES:
        raise ValueError(f"it would unpack to {unpacked:,} bytes; at most {MOST_BYTES:,} allowed")
