"""GGUF files: dequantised once, and kept as a folder that loads in moments.

Reading a GGUF file through transformers takes its config and its tokenizer apart token by token and
every block of weights value by value, at every start. What comes out is written down as
`save_pretrained` writes it, under the digest of the file.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lrt.models.cache import file_digest
from lrt.models.errors import ModelNotLoadable, refuse_gaps
from lrt.storage.durable import TEMP_MARK, held, sync_folder

log = logging.getLogger(__name__)

PACKAGES = ("gguf", "accelerate")


def dequantised(path: Path, dtype: torch.dtype, cache: Path) -> Path:
    """The folder of a GGUF file's model (config, safetensors, tokenizer), made where it is not there.

    path   A `.gguf` file.
    dtype  What its blocks are turned into, exactly as transformers does when it loads the file.
    cache  The folder is `gguf/<SHA-256>-<dtype>-<versions>` in it; versions, since another release of
           transformers or gguf may read a file otherwise. It appears under its name only when it is
           whole; of several processes one makes it and the others wait.

    Raises `ModelNotLoadable` for a file that is not there or one of several parts, a missing package, a
    cache that cannot be written or is too small; what transformers raises for a file that it cannot
    read goes through.
    """
    if not path.is_file():
        raise ModelNotLoadable(
            f"model `path` {str(path)!r} is a GGUF file that is not there; GGUF models are read from local files"
        )
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name):
        raise ModelNotLoadable(
            f"model `path` {str(path)!r} is one of several parts of a GGUF model; put them together first "
            "(llama-gguf-split --merge) and name the whole"
        )
    if lacking := [name for name in PACKAGES if find_spec(name) is None]:
        raise ModelNotLoadable(
            f"model {str(path)!r} is a GGUF file, for which the package {lacking[0]} is missing: "
            "pip install -e '.[gguf]'"
        )
    releases = "-".join(f"{name}-{version(name)}" for name in ("transformers", "gguf"))
    form = str(dtype).removeprefix("torch.")
    folder = cache / "gguf" / f"{file_digest(path, cache)[:32]}-{form}-{releases}"
    if folder.is_dir():
        return folder
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder.parent, wait=True))
        except OSError as error:
            raise ModelNotLoadable(
                f"what the GGUF file {str(path)!r} holds is kept in {folder.parent}, which cannot be written "
                f"({error.strerror}); set paths.models, or LRT_CACHE, to another place"
            ) from error
        if not folder.is_dir():
            log.info("dequantising %s, once, into %s", path, folder)
            _make(path, dtype, folder)
    return folder


def _make(path: Path, dtype: torch.dtype, folder: Path) -> None:
    # Nobody else writes here now, so what is left over was left by a process that was killed.
    for left in folder.parent.glob(f"*{TEMP_MARK}*"):
        shutil.rmtree(left)
    temp = folder.with_name(f"{folder.name}{TEMP_MARK}{os.getpid()}")
    temp.mkdir()
    try:
        _write(path, dtype, temp)
        for file in temp.iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        sync_folder(temp)
        temp.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temp, ignore_errors=True)  # it is gone where all went well


def _write(path: Path, dtype: torch.dtype, folder: Path) -> None:
    import transformers

    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    # Where a kernel for them is installed, newer releases leave the blocks as they are.
    packed = getattr(transformers, "GgufConfig", None)
    more: dict[str, Any] = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        **source, dtype=dtype, trust_remote_code=False, output_loading_info=True, **more
    )
    refuse_gaps(str(path), report["missing_keys"])
    needed = sum(tensor.nbytes for tensor in model.state_dict().values())
    if needed > (free := shutil.disk_usage(folder).free):
        raise ModelNotLoadable(
            f"the GGUF file {str(path)!r} takes {needed / 1e9:.1f} GB once it is dequantised, and "
            f"{folder.parent} has {free / 1e9:.1f} GB left; set paths.models, or LRT_CACHE, to a larger disk"
        )
    # It is a plain model by now, and the mark of a quantised one would keep it from being saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
    tokenizer.save_pretrained(folder)
