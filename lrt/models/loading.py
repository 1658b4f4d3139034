"""Load the model of a `ModelSpec`, and compute the identity that its fingerprint is made of.

Only safetensors and GGUF weights are read. No code of a checkpoint is ever run.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from lrt.models.blocks import keep_first_blocks
from lrt.models.cache import cache_folder, file_digest
from lrt.models.capabilities import check_family
from lrt.models.checkpoint_files import check_sizes, explained, stored_text
from lrt.models.errors import ModelNotLoadable, check_complete
from lrt.models.gguf import dequantise
from lrt.models.language_model import LanguageModel
from lrt.models.precision import resolve_dtype
from lrt.models.spec import ModelSpec
from lrt.models.special_tokens import set_special_ends
from lrt.models.tokenization import splitting_rules


def load(
    spec: ModelSpec, cache: Path | None = None, blocks: int | None = None, tokenizer: Any = None
) -> LanguageModel:
    """The model and tokenizer of a spec, on its device in its dtype.

    cache   Folder of dequantised GGUF files and of digests; by default `LRT_CACHE`, or `~/.cache/lrt`.
    blocks  Load only this many blocks, from the first: enough to read their states, but there are no logits.
            Random weights are always drawn whole, so that a seed means the same weights.
    tokenizer  From `load_tokenizer`, where it is loaded already.

    Raises `ModelNotLoadable` for a missing path, weights that are not safetensors, are incomplete or do not
    fit the config, a device that this machine does not have, or a missing package for GGUF or `device_map`.
    Raises `NoBlocks` or `FamilyNotSupported` for an unsupported family.
    """
    from transformers import AutoModelForCausalLM

    if spec.device_map and find_spec("accelerate") is None:
        raise ModelNotLoadable(
            f"`device_map`={spec.device_map} of model {spec.path!r} needs the package accelerate: "
            "pip install -e '.[large]'"
        )
    source = _source(spec, cache)
    config = load_config(spec, source)
    tokenizer = tokenizer or load_tokenizer(spec, cache)  # its faults show before the weights are read
    device = _device(spec)
    dtype = _dtype(spec, config)
    kind: Any = AutoModelForCausalLM
    if blocks is not None and spec.weights != "random":
        with explained(spec, "the config", source):
            kind = _first_blocks(config, blocks)
    kernel = attention_kernel(config)
    with explained(spec, "the weights", source):
        if spec.weights == "random":
            # Drawn in float32 on the CPU, so that a seed means the same weights everywhere.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(spec.seed)
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **kernel)
            model = model.to(dtype)
            model = _spread(model, spec.device_map) if spec.device_map else model.to(device)
        else:
            model, report = kind.from_pretrained(
                **source,
                config=config,
                dtype=dtype,
                device_map=spec.device_map,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, with their names
                **kernel,
            )
            check_complete(spec.path, model, report)
            model = model if spec.device_map else model.to(device)
    lm = LanguageModel(spec, model, tokenizer)
    check_family(lm)
    return lm


def depth_and_width_of(spec: ModelSpec, cache: Path | None = None) -> tuple[int, int]:
    """The number of a model's blocks and the size of its residual stream, from its config; `cache` as in
    `load`. Raises `ModelNotLoadable`."""
    text = load_config(spec, _source(spec, cache)).get_text_config(decoder=True)
    return int(text.num_hidden_layers), int(text.hidden_size)


def _first_blocks(config: Any, blocks: int) -> Any:
    """The model class of a config, whose models have the config's first blocks alone.

    The config stays whole, since blocks may depend on their number (a residual scale, shared keys). The
    weights above are not read: there is nothing to put them in.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(config))

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **kwargs)
        keep_first_blocks(self, blocks)

    return type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})


def quiet_loading() -> None:
    """Turn off transformers' progress bars of loading, which would break into ours."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()
    # the download bar stays, or a first run would seem to hang
    enable_progress_bars()


def load_tokenizer(spec: ModelSpec, cache: Path | None = None) -> Any:
    """The transformers tokenizer of a spec; `cache` as in `load`. Raises `ModelNotLoadable`.

    It splits text by the rules of the checkpoint's `tokenizer.json`. transformers' class for a checkpoint may
    replace them by its own: SmolLM2's digits would then be split as GPT-2's. It puts before a text what the
    checkpoint means, and nothing after it (`lrt.models.special_tokens`).
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    source = _source(spec, cache)
    with explained(spec, "the tokenizer", source):
        tokenizer = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
        built, text = getattr(tokenizer, "backend_tokenizer", None), stored_text(source, "tokenizer.json")
        if built is not None and text is not None:
            stored = Tokenizer.from_str(text)
            if Path(spec.path).suffix == ".gguf":
                # its rules are not complete, and the class knows better, apart from this one
                if getattr(stored.model, "ignore_merges", False):
                    built.model.ignore_merges = True
            elif splitting_rules(built) != splitting_rules(stored):
                tokenizer = PreTrainedTokenizerFast.from_pretrained(**source)
        # transformers reads it only for checkpoints without a tokenizer.json
        settings = json.loads(stored_text(source, "tokenizer_config.json") or "{}")
        if not isinstance(settings, dict):
            raise ModelNotLoadable(f"tokenizer_config.json of model {spec.path!r} is not a JSON object")
        bos = settings.get("add_bos_token")
        set_special_ends(tokenizer, bos, spec.name)
        return tokenizer


def identity(spec: ModelSpec, cache: Path | None = None) -> dict[str, Any]:
    """Everything that determines the model's numbers, as plain data for a fingerprint; `cache` as in `load`.

    - A local model: SHA-256 of its config and weight files, not its path.
    - A hub model: id and revision (the commit, where transformers knows it).
    - A GGUF file: its SHA-256 and the dtype it is dequantised to.
    - Random weights: config and seed.

    The dtype is the one resolved for this machine. Devices and name are not part of it.
    """
    config = load_config(spec, _source(spec, cache))
    cache = cache_folder(cache)
    dtype = str(_dtype(spec, config)).removeprefix("torch.")
    facts: dict[str, Any] = {"weights": spec.weights, "dtype": dtype}
    if spec.weights == "random":
        facts["seed"] = spec.seed
    path = Path(spec.path).expanduser()
    if not path.exists():
        commit = getattr(config, "_commit_hash", None)
        return facts | {"hub": spec.path, "revision": commit or spec.revision or "main"}
    if path.is_file():
        stored = str(_gguf_dtype(spec)).removeprefix("torch.")
        return facts | {"files": {"model.gguf": file_digest(path, cache)}, "stored": stored}
    files = [path / "config.json"]
    if spec.weights == "trained":
        files += sorted(path.glob("*.safetensors"))
    return facts | {"files": {file.name: file_digest(file, cache) for file in files}}


def _source(spec: ModelSpec, cache: Path | None) -> dict[str, Any]:
    """transformers' arguments for a spec's files; a GGUF file is dequantised first."""
    path = Path(spec.path).expanduser()
    if spec.revision and path.exists():
        raise ModelNotLoadable(
            f"`path` {spec.path!r} of a model is local and has no revisions; remove "
            f"`revision`={spec.revision!r}, or set `path` to a hub id"
        )
    if path.suffix == ".gguf":
        with explained(spec, "the GGUF file", {}):
            folder = dequantise(path, _gguf_dtype(spec), cache_folder(cache))
        return {"pretrained_model_name_or_path": str(folder)}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotLoadable(
                f"`path` {spec.path!r} of a model is a folder without config.json; set it to a folder "
                "written by `save_pretrained`"
            )
        return {"pretrained_model_name_or_path": str(path)}
    if spec.path.startswith(("/", ".", "~")) or spec.path.count("/") > 1 or path.is_file():
        raise ModelNotLoadable(
            f"`path` {spec.path!r} of a model is no folder of this machine; allowed: a folder, a .gguf file, "
            "or a hub id such as google/gemma-2-2b"
        )
    return {"pretrained_model_name_or_path": spec.path, "revision": spec.revision or "main"}


def load_config(spec: ModelSpec, source: dict[str, Any]) -> Any:
    """The transformers config of a spec whose files are at `source`. Raises `ModelNotLoadable`."""
    from transformers import AutoConfig

    with explained(spec, "the config", source):
        check_sizes(spec, json.loads(stored_text(source, "config.json") or "{}"))
        return AutoConfig.from_pretrained(**source, trust_remote_code=False)


def attention_kernel(config: Any) -> dict[str, str]:
    """Arguments that choose the attention kernel: `eager` for a model that soft-caps its attention logits.

    The fused kernel of some transformers versions leaves the cap out (Gemma-2), silently.
    """
    capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None)
    return {"attn_implementation": "eager"} if capped else {}


def _gguf_dtype(spec: ModelSpec) -> torch.dtype:
    dtype = getattr(torch, "bfloat16" if spec.dtype == "auto" else spec.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _spread(model: Any, device_map: str) -> Any:
    """Spread a model in the CPU's memory over all devices, as `from_pretrained` does with a checkpoint."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules or ())  # a block must stay on one device
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
