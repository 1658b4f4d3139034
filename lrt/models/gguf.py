"""GGUF files: dequantised once and cached as a `save_pretrained` folder, which loads fast.

transformers converts a GGUF file's config, tokenizer and weights anew at every start, which is slow. The
cached folder is named by the file's digest.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lrt.models.cache import file_digest
from lrt.models.errors import ModelNotLoadable, check_complete
from lrt.models.gguf_reader import one_reader
from lrt.models.special_tokens import set_special_ends
from lrt.storage.durable import sweep, write_folder_durably
from lrt.storage.gguf_file import GgufContents, GgufDamaged, check_gguf
from lrt.storage.locks import locked

log = logging.getLogger(__name__)

PACKAGES = ("gguf", "accelerate")
LAYOUT = 2  # of the cached folder; raised with what is written to it

# Values of `tokenizer.ggml.pre`: texts begin with the BOS unless `add_bos_token` says otherwise, and words of
# the vocabulary are taken whole, whatever the merges
_LLAMA3 = "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano".split()
ADD_BOS = (*_LLAMA3, "tekken", "chameleon")
IGNORE_MERGES = (*_LLAMA3, "tekken", "minicpm5", "youtu")
MOST_PARTS = 2**16  # experts, heads and the like
SMALL = 2**26  # numbers: what a model may have beside its weights, such as tables of positions


def dequantise(path: Path, dtype: torch.dtype, cache: Path) -> Path:
    """The folder (config, safetensors, tokenizer) of a GGUF file's model, written first where it is missing.

    path   A `.gguf` file.
    dtype  The dtype its quantised blocks are converted to, exactly as transformers does on loading.
    cache  Cache folder, which gets `gguf/<SHA-256>-<dtype>-<versions>`. The versions are those of
           transformers and gguf, which decide how a file is read, and `LAYOUT`. The folder gets its name only
           once it is complete. One of several processes writes it; the others wait.

    Raises `ModelNotLoadable` for a missing file, one part of a split file, one that cannot be read, a missing
    package, and a cache that cannot be written or is too small.
    """
    if not path.is_file():
        raise ModelNotLoadable(
            f"`path` of a model is {str(path)!r}, which does not exist; GGUF models are read from local "
            "files only"
        )
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name):
        raise ModelNotLoadable(
            f"`path` of a model is {str(path)!r}, one part of a split GGUF model; merge the parts "
            "(llama-gguf-split --merge) and set `path` to the merged file"
        )
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ModelNotLoadable(
            f"model {str(path)!r} is a GGUF file, which needs the package {missing[0]}: pip install -e "
            "'.[gguf]'"
        )
    releases = "-".join(f"{name}-{version(name)}" for name in ("transformers", "gguf"))
    form = str(dtype).removeprefix("torch.")
    folder = cache / "gguf" / f"{file_digest(path, cache)[:32]}-{form}-{releases}-{LAYOUT}"
    if folder.is_dir():
        return folder
    with ExitStack() as stack:
        try:
            lock = cache / "locks" / "gguf.lock"
            for place in (lock.parent, folder.parent):
                place.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(lock, f"dequantising into {folder.parent}"))
        except OSError as error:
            raise ModelNotLoadable(
                f"cannot write {folder.parent} ({error.strerror}), the cache for the dequantised GGUF file "
                f"{str(path)!r}; set paths.models, or LRT_CACHE, to another folder"
            ) from error
        if not folder.is_dir():
            log.info("Dequantising %s once into %s", path, folder)
            _write_whole(path, dtype, folder)
    return folder


def _write_whole(path: Path, dtype: torch.dtype, folder: Path) -> None:
    # The caller holds the lock, so a temporary folder is the leftover of a killed process.
    sweep(folder.parent)
    write_folder_durably(folder, lambda temporary: convert(path, dtype, temporary))


def convert(path: Path, dtype: torch.dtype, folder: Path) -> None:
    """Write a GGUF file's config, weights in `dtype` and tokenizer to `folder`, without a cache or a lock.

    Raises `ModelNotLoadable` for a file that cannot be read, missing tensors, and too small a disk.
    """
    import transformers

    contents = _checked(path)
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    # Newer releases of transformers keep the quantised blocks where a kernel for them is installed.
    gguf_config = getattr(transformers, "GgufConfig", None)
    more: dict[str, Any] = (
        {} if gguf_config is None else {"quantization_config": gguf_config(dequantize=True)}
    )
    with _readable(path), one_reader(path):
        config = transformers.AutoConfig.from_pretrained(**source, trust_remote_code=False)
        _check_size(path, config, contents)
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            **source,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            **more,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
        complete_tokenizer(tokenizer, contents, path.name)
    check_complete(str(path), model, report)
    needed = sum(tensor.nbytes for tensor in model.state_dict().values())
    if needed > (free := shutil.disk_usage(folder).free):
        raise ModelNotLoadable(
            f"the GGUF file {str(path)!r} needs {needed / 1e9:.1f} GB when dequantised, but "
            f"{folder.parent} has {free / 1e9:.1f} GB free; set paths.models, or LRT_CACHE, to a larger disk"
        )
    # It is a plain model now; transformers refuses to save one that is marked as quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def complete_tokenizer(tokenizer: Any, contents: GgufContents, name: str) -> None:
    """Give a GGUF file's tokenizer what its key `tokenizer.ggml.pre` means, which transformers does not read.

    Source: `llama_vocab::impl::load` of llama.cpp.
    """
    settings = {
        key: contents.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre", "add_bos_token")
    }
    bos = None  # transformers follows the flag
    if settings["model"] == "gpt2":
        bos = True if settings["add_bos_token"] is None and settings["pre"] in ADD_BOS else None
        if settings["pre"] in IGNORE_MERGES:
            tokenizer.backend_tokenizer.model.ignore_merges = True
    set_special_ends(tokenizer, bos, name)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever transformers stumbles over in a file into `ModelNotLoadable`."""
    try:
        yield
    except (ModelNotLoadable, MemoryError):
        raise
    except Exception as error:
        raise ModelNotLoadable(
            f"transformers cannot read the GGUF file {str(path)!r}: {type(error).__name__}: {error}. "
            "Download it again, or use a model with safetensors weights"
        ) from error


def _checked(path: Path) -> GgufContents:
    """A file's contents, if its structure is whole and it has as many blocks as it states."""
    try:
        contents = check_gguf(path)
    except GgufDamaged as error:
        raise ModelNotLoadable(str(error)) from error
    for key, count in contents.metadata.items():
        # one of the tensors is needed for each block, expert or head
        most = len(contents.shapes) if key.endswith(".block_count") else MOST_PARTS
        if key.endswith("_count") and isinstance(count, int) and count > most:
            raise ModelNotLoadable(
                f"the GGUF file {str(path)!r} states {key} = {count}, more than the {most} that it can have"
            )
    return contents


def _check_size(path: Path, config: Any, contents: GgufContents) -> None:
    """Raise `ModelNotLoadable` for a file whose config asks for far more numbers than its tensors have."""
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if numbers > 2 * contents.numbers + SMALL:
        raise ModelNotLoadable(
            f"the GGUF file {str(path)!r} states a model of {numbers:,} numbers, but holds "
            f"{contents.numbers:,}"
        )
