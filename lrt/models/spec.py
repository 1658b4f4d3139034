"""Names a language model as plain data that a config can hold."""

import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, get_args

from lrt.errors import InvalidValue

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
Weights = Literal["trained", "random"]
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]


@dataclass(frozen=True)
class ModelSpec:
    """A causal language model by name; no file is opened before `load`.

    path      Hub id, local folder with `config.json` and safetensors, or local `.gguf` file.
    revision  Branch, tag or commit of a hub id. Only a commit cannot move.
    dtype     `auto`: the checkpoint's own on a GPU. On a CPU float32, or bfloat16 for a bfloat16 checkpoint
              where the CPU has instructions for it (`lrt.models.precision`). A GGUF file counts as bfloat16,
              which is finer than its quantised blocks.
    device    A torch device, or `auto`: CUDA where there is a GPU, else the CPU.
    weights   `random` keeps the architecture and draws new weights: the untrained control.
    seed      Seed of these random weights.
    name      Name in reports; by default derived from `path`.
    device_map  How to spread a model larger than one device over all devices, by transformers' names. What
              does not fit goes to the CPU's memory. None: one device.
    batch_memory_gb  Most memory of a batch that is steered or generated, in 1e9 bytes. None: 80% of what its
              GPUs have free, 4 without a GPU.

    Raises InvalidValue for a setting that is not allowed.
    """

    path: str
    revision: str | None = None
    dtype: DtypeName = "auto"
    device: str = "auto"
    weights: Weights = "trained"
    seed: int = 0
    name: str = ""
    device_map: DeviceMap | None = None
    batch_memory_gb: float | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise InvalidValue("`path` of a model is empty; set it to a hub id, a folder or a .gguf file")
        choices: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("dtype", self.dtype, get_args(DtypeName)),
            ("weights", self.weights, get_args(Weights)),
            ("device_map", self.device_map, (None, *get_args(DeviceMap))),
        )
        for setting, value, allowed in choices:
            if value not in allowed:
                names = ", ".join("null" if choice is None else str(choice) for choice in allowed)
                raise InvalidValue(f"`{setting}` of model {self.path!r} is {value!r}; allowed: {names}")
        if self.device_map and self.device != "auto":
            raise InvalidValue(
                f"model {self.path!r} has both `device`={self.device!r} and "
                f"`device_map`={self.device_map!r}; remove one of them"
            )
        if self.batch_memory_gb is not None and not 0 < self.batch_memory_gb < math.inf:
            raise InvalidValue(
                f"`batch_memory_gb` of model {self.path!r} is {self.batch_memory_gb}; it must be above 0 and "
                "finite, or null"
            )
        if self.seed < 0:
            raise InvalidValue(f"`seed` of model {self.path!r} is {self.seed}; it must be at least 0")
        if self.seed and self.weights != "random":
            raise InvalidValue(
                f"`seed` of model {self.path!r} is {self.seed}, but only random weights use a seed; remove "
                "it, or set `weights` to random"
            )
        if not self.name:
            path = PurePosixPath(self.path)
            # model.gguf is a common file name: the folder's name says more
            name = path.parent.name if path.name == "model.gguf" else path.name.removesuffix(".gguf")
            name = name or self.path
            if self.weights == "random":
                name += " (random weights)"
            object.__setattr__(self, "name", name)
