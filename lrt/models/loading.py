"""From a `ModelSpec` to a running model, and to the identity that fingerprints are made of.

Weights come from safetensors (or GGUF) alone, and no code of a checkpoint is ever run.
"""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lrt.models.cache import cache_folder, file_digest
from lrt.models.errors import ModelNotLoadable, refuse_gaps
from lrt.models.gguf import dequantised
from lrt.models.language_model import LanguageModel
from lrt.models.precision import resolve_dtype
from lrt.models.spec import ModelSpec


def load(spec: ModelSpec, cache: Path | None = None, blocks: int | None = None) -> LanguageModel:
    """The model and tokenizer of a spec, on its device in its dtype, ready to read and steer.

    cache   Where dequantised GGUF files and digests of large files are kept: `LRT_CACHE`, or
            `~/.cache/lrt`, if it is not given.
    blocks  How many are loaded, from the first: enough to read states up to there, and nothing else can be
            done with the model. Random weights are drawn whole, or a seed would mean others.

    Raises `ModelNotLoadable` for a path that is not there, weights that are not safetensors or not
    whole (transformers would fill gaps with random numbers), a device that this machine lacks, or
    a missing package for GGUF or `device_map`.
    """
    from transformers import AutoModelForCausalLM

    if spec.device_map and find_spec("accelerate") is None:
        raise ModelNotLoadable(
            f"`device_map`={spec.device_map} of model {spec.path!r} needs the package accelerate: "
            "pip install -e '.[large]'"
        )
    source = _source(spec, cache)
    config = _config(spec, source)
    device = _device(spec)
    dtype = _dtype(spec, config)
    depth = None  # as many as are found
    if blocks is not None and spec.weights != "random":
        depth = int(config.get_text_config(decoder=True).num_hidden_layers)
        source["config"] = _shallow(config, min(blocks, depth))
    with _explained(spec, "the weights"):
        if spec.weights == "random":
            # Drawn in float32 on the CPU, so that a seed means the same weights everywhere.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(spec.seed)
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model = model.to(dtype)
            model = _spread(model, spec.device_map) if spec.device_map else model.to(device)
        else:
            model, report = AutoModelForCausalLM.from_pretrained(
                **source,
                dtype=dtype,
                device_map=spec.device_map,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            refuse_gaps(spec.path, report["missing_keys"])
            model = model if spec.device_map else model.to(device)
    return LanguageModel(spec, model, load_tokenizer(spec, cache), depth)


def depth_of(spec: ModelSpec, cache: Path | None = None) -> int:
    """How many blocks a model has, from its config alone; `cache` as in `load`. Raises `ModelNotLoadable`."""
    config = _config(spec, _source(spec, cache))
    return int(config.get_text_config(decoder=True).num_hidden_layers)


def _shallow(config: Any, blocks: int) -> Any:
    """The config of a model's first blocks: what lies above them in the files is not read.

    Of a model whose blocks share keys and values, or have inputs of their own, that of all: sizes and what is
    shared hang on how many they are.
    """
    text = config.get_text_config(decoder=True)
    if getattr(text, "num_kv_shared_layers", 0) or getattr(text, "hidden_size_per_layer_input", 0):
        return config
    # a list of kinds must be as long, or the config is refused
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:blocks]
    text.num_hidden_layers = blocks
    return config


def quiet_loading() -> None:
    """Turns off transformers' progress bars of loading, which would break into ours."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()
    # that of a download stays, or a first run would seem to hang for as long as it takes
    enable_progress_bars()


def load_tokenizer(spec: ModelSpec, cache: Path | None = None) -> Any:
    """The transformers tokenizer of a spec; `cache` as in `load`. Raises `ModelNotLoadable`.

    It cuts text as the checkpoint's `tokenizer.json` says. The class that transformers takes for a checkpoint
    may build rules of its own in place of those: SmolLM2's digits are then cut as GPT-2's.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    source = _source(spec, cache)
    with _explained(spec, "the tokenizer"):
        found = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
        if Path(spec.path).suffix == ".gguf":  # its rules are what the class is known to have, or less
            return found
        built = getattr(found, "backend_tokenizer", None)
        written = _written_rules(source)
        if built is None or written is None or _cutting(built.to_str()) == _cutting(written):
            return found
        return PreTrainedTokenizerFast.from_pretrained(**source)


def _written_rules(source: dict[str, Any]) -> str | None:
    """The text of a checkpoint's `tokenizer.json`."""
    from transformers.utils import cached_file

    name, revision = source["pretrained_model_name_or_path"], source.get("revision")
    try:
        return Path(cached_file(name, "tokenizer.json", revision=revision)).read_text(encoding="utf-8")
    except OSError:  # the tokenizer was found without it
        return None


def _cutting(rules: str) -> tuple[Any, Any]:
    """What the rules of a tokenizer do to text before it is cut, and how they cut it."""
    read = json.loads(rules)
    return read.get("normalizer"), read.get("pre_tokenizer")


def identity(spec: ModelSpec, cache: Path | None = None) -> dict[str, Any]:
    """What determines the model's numbers, in plain values to be hashed; `cache` as in `load`.

    A local model is told by the SHA-256 of its config and weight files, never by its path; a hub
    model by id and revision (the commit, where transformers knows it); random weights by config
    and seed. A GGUF file is told by its own digest and the dtype it is dequantised to. The dtype is
    the one resolved for this machine. Devices and name do not count.
    """
    config = _config(spec, _source(spec, cache))
    cache = cache_folder(cache)
    dtype = str(_dtype(spec, config)).removeprefix("torch.")
    found: dict[str, Any] = {"weights": spec.weights, "dtype": dtype}
    if spec.weights == "random":
        found["seed"] = spec.seed
    path = Path(spec.path).expanduser()
    if not path.exists():
        commit = getattr(config, "_commit_hash", None)
        return found | {"hub": spec.path, "revision": commit or spec.revision or "main"}
    if path.is_file():
        stored = str(_gguf_dtype(spec)).removeprefix("torch.")
        return found | {"files": {"model.gguf": file_digest(path, cache)}, "stored": stored}
    files = [path / "config.json"]
    if spec.weights == "trained":
        files += sorted(path.glob("*.safetensors"))
    return found | {"files": {file.name: file_digest(file, cache) for file in files}}


def _source(spec: ModelSpec, cache: Path | None) -> dict[str, Any]:
    """The arguments by which transformers finds a spec; a GGUF file is dequantised for it, once."""
    path = Path(spec.path).expanduser()
    if spec.revision and path.exists():
        raise ModelNotLoadable(
            f"model `path` {spec.path!r} is on this machine, where there are no revisions; take "
            f"`revision`={spec.revision!r} away, or name a hub id"
        )
    if path.suffix == ".gguf":
        with _explained(spec, "the GGUF file"):
            folder = dequantised(path, _gguf_dtype(spec), cache_folder(cache))
        return {"pretrained_model_name_or_path": str(folder)}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotLoadable(
                f"model `path` {spec.path!r} is a folder without config.json; name a folder as "
                "`save_pretrained` writes it"
            )
        return {"pretrained_model_name_or_path": str(path)}
    if spec.path.startswith(("/", ".", "~")) or spec.path.count("/") > 1 or path.is_file():
        raise ModelNotLoadable(
            f"model `path` {spec.path!r} is no folder of this machine; name a folder, "
            "a .gguf file or a hub id such as google/gemma-2-2b"
        )
    return {"pretrained_model_name_or_path": spec.path, "revision": spec.revision or "main"}


def _config(spec: ModelSpec, source: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    with _explained(spec, "the config"):
        return AutoConfig.from_pretrained(**source, trust_remote_code=False)


def _gguf_dtype(spec: ModelSpec) -> torch.dtype:
    dtype = getattr(torch, "bfloat16" if spec.dtype == "auto" else spec.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _spread(model: Any, device_map: str) -> Any:
    """A model in the CPU's memory spread over all devices, as `from_pretrained` does with a checkpoint."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules or ())  # blocks, which must not be cut
    memory = None
    if device_map != "sequential":
        memory = get_balanced_memory(
            model, no_split_module_classes=whole, low_zero=device_map == "balanced_low_0"
        )
    placed = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    return dispatch_model(model, placed)


def _device(spec: ModelSpec) -> torch.device:
    if spec.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(spec.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as cause:
        raise ModelNotLoadable(
            f"`device` of model {spec.path!r} is {spec.device!r}, which this machine cannot use "
            f"({str(cause).splitlines()[0]}); set it to auto or cpu"
        ) from cause
    return device


def _dtype(spec: ModelSpec, config: Any) -> torch.dtype:
    text = config.get_text_config(decoder=True)
    stored = getattr(text, "dtype", None) or getattr(config, "dtype", None) or torch.float32
    return resolve_dtype(spec.dtype, stored, _device(spec), text.hidden_size)


@contextmanager
def _explained(spec: ModelSpec, what: str) -> Iterator[None]:
    """Say which model it was, where transformers raises."""
    try:
        yield
    except ModelNotLoadable:
        raise
    # struct.error is what a GGUF file that ends early gives
    except (OSError, ValueError, ImportError, KeyError, SafetensorError, struct.error) as cause:
        raise ModelNotLoadable(
            f"cannot load {what} of model {spec.path!r}"
            + (f" (revision {spec.revision})" if spec.revision else "")
            + f"; only safetensors and GGUF are read and no code of a checkpoint is run. {cause}"
        ) from cause
