"""What is needed to find a language model again: plain data that a config can hold."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, get_args

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
Weights = Literal["trained", "random"]
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]


@dataclass(frozen=True)
class ModelSpec:
    """A causal language model by name; nothing is opened before `load`.

    path      Hub id, local folder with `config.json` and safetensors, or local `.gguf` file.
    revision  Branch, tag or commit of a hub id; a commit is the only one that cannot move.
    dtype     `auto`: the checkpoint's own on a GPU; on a CPU float32, unless bfloat16 weights of
              that width multiply faster there (`lrt.models.precision`). A GGUF file's own is taken
              to be bfloat16, finer than its blocks.
    device    A torch device, or `auto` for CUDA where there is one and the CPU otherwise.
    weights   `random` keeps the architecture and draws fresh weights: the untrained control.
    seed      Of those fresh weights.
    name      For people to read; by default the last part of `path` that says something.
    device_map  How a model larger than one device is spread over all of this machine's (what is left
              over goes to the CPU's memory): the names are those of transformers. None: one device.
    """

    path: str
    revision: str | None = None
    dtype: DtypeName = "auto"
    device: str = "auto"
    weights: Weights = "trained"
    seed: int = 0
    name: str = ""
    device_map: DeviceMap | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("a model spec has an empty `path`; set it to a hub id, a folder or a .gguf file")
        if self.dtype not in get_args(DtypeName):
            raise ValueError(
                f"`dtype` of model {self.path!r} is {self.dtype!r}; allowed: {', '.join(get_args(DtypeName))}"
            )
        if self.weights not in get_args(Weights):
            raise ValueError(
                f"`weights` of model {self.path!r} is {self.weights!r}; allowed: {', '.join(get_args(Weights))}"
            )
        if self.device_map not in (None, *get_args(DeviceMap)):
            raise ValueError(
                f"`device_map` of model {self.path!r} is {self.device_map!r}; "
                f"allowed: null, {', '.join(get_args(DeviceMap))}"
            )
        if self.device_map and self.device != "auto":
            raise ValueError(
                f"model {self.path!r} has `device`={self.device!r} and `device_map`={self.device_map!r}: "
                "one device or a spread over all of them; take one of the two away"
            )
        if self.seed < 0:
            raise ValueError(f"`seed` of model {self.path!r} is {self.seed}; it cannot be negative")
        if self.seed and self.weights != "random":
            raise ValueError(
                f"`seed` of model {self.path!r} is {self.seed}, which draws random weights, and its "
                "`weights` are trained; take it away"
            )
        if not self.name:
            path = PurePosixPath(self.path)
            # many a folder holds one file of that name
            name = path.parent.name if path.name == "model.gguf" else path.name.removesuffix(".gguf")
            name = name or self.path
            if self.weights == "random":
                name += " (random weights)"
            object.__setattr__(self, "name", name)
