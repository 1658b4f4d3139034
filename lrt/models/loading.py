"""From a `ModelSpec` to a running model, and to the identity that fingerprints are made of.

Weights come from safetensors (or GGUF) alone, and no code of a checkpoint is ever run.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lrt.models.language_model import LanguageModel
from lrt.models.precision import resolve_dtype
from lrt.models.spec import ModelSpec

_CHUNK_BYTES = 1 << 20


class ModelNotLoadable(ValueError):
    """A spec names nothing that can be loaded; the message says what is missing and the mend."""


def load(spec: ModelSpec) -> LanguageModel:
    """The model and tokenizer of a spec, on its device in its dtype, ready to read and steer.

    Raises `ModelNotLoadable` for a path that is not there, weights that are not safetensors or not
    whole (transformers would fill gaps with random numbers), a device that this machine lacks, or
    a missing package for GGUF.
    """
    from transformers import AutoModelForCausalLM

    config = _config(spec)
    device = _device(spec)
    dtype = _dtype(spec, config)
    with _explained(spec, "the weights"):
        if spec.weights == "random":
            # Drawn in float32 on the CPU, so that a seed means the same weights everywhere.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(spec.seed)
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model = model.to(dtype)
        else:
            model, report = AutoModelForCausalLM.from_pretrained(
                **_source(spec),
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            missing = sorted(report["missing_keys"])
            if missing:
                raise ModelNotLoadable(
                    f"the weights of model {spec.path!r} are not whole: {len(missing)} tensors are "
                    f"missing, the first is {missing[0]}; fetch the checkpoint again"
                )
    return LanguageModel(spec, model.to(device), load_tokenizer(spec))


def quiet_loading() -> None:
    """Turns off transformers' progress bars, which would break into ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_tokenizer(spec: ModelSpec) -> Any:
    """The transformers tokenizer of a spec. Raises `ModelNotLoadable`."""
    from transformers import AutoTokenizer

    with _explained(spec, "the tokenizer"):
        return AutoTokenizer.from_pretrained(**_source(spec), trust_remote_code=False)


def identity(spec: ModelSpec) -> dict[str, Any]:
    """What determines the model's numbers, in plain values to be hashed.

    A local model is told by the SHA-256 of its config and weight files, never by its path; a hub
    model by id and revision (the commit, where transformers knows it); random weights by config
    and seed. The dtype is the one resolved for this machine. Device and name do not count.
    """
    config = _config(spec)
    dtype = str(_dtype(spec, config)).removeprefix("torch.")
    found: dict[str, Any] = {"weights": spec.weights, "dtype": dtype}
    if spec.weights == "random":
        found["seed"] = spec.seed
    path = Path(spec.path).expanduser()
    if not path.exists():
        commit = getattr(config, "_commit_hash", None)
        return found | {"hub": spec.path, "revision": commit or spec.revision or "main"}
    if path.is_file():
        return found | {"files": {"model.gguf": _sha256(path)}}
    files = [path / "config.json"]
    if spec.weights == "trained":
        files += sorted(path.glob("*.safetensors"))
    return found | {"files": {file.name: _sha256(file) for file in files}}


def _source(spec: ModelSpec) -> dict[str, Any]:
    """The arguments by which transformers finds a spec."""
    path = Path(spec.path).expanduser()
    if spec.revision and path.exists():
        raise ModelNotLoadable(
            f"model `path` {spec.path!r} is on this machine, where there are no revisions; take "
            f"`revision`={spec.revision!r} away, or name a hub id"
        )
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotLoadable(
                f"model `path` {spec.path!r} is a GGUF file that is not there; GGUF models are "
                "read from local files"
            )
        if lacking := [name for name in ("gguf", "accelerate") if find_spec(name) is None]:
            raise ModelNotLoadable(
                f"model {spec.path!r} is a GGUF file, for which the package {lacking[0]} is "
                "missing: pip install -e '.[gguf]'"
            )
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
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


def _config(spec: ModelSpec) -> Any:
    from transformers import AutoConfig

    with _explained(spec, "the config"):
        return AutoConfig.from_pretrained(**_source(spec), trust_remote_code=False)


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
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as cause:
        raise ModelNotLoadable(
            f"cannot load {what} of model {spec.path!r}"
            + (f" (revision {spec.revision})" if spec.revision else "")
            + f"; only safetensors are read and no code of a checkpoint is run. {cause}"
        ) from cause


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
