"""The JSON files of a checkpoint: reading them, and saying which is at fault where loading fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lrt.errors import UserError
from lrt.models.capabilities import raised_here
from lrt.models.errors import ModelNotLoadable
from lrt.models.spec import ModelSpec
from lrt.storage.text_files import FileUnreadable, parse_json

JSON_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
LARGEST = {"num_hidden_layers": 10_000, "n_layer": 10_000, "num_attention_heads": 100_000, "n_head": 100_000}
"""Sizes in a config, each with a number far above any model's."""


def stored_text(source: dict[str, Any], name: str) -> str | None:
    """The text of a checkpoint's file; None where it has no such file."""
    file = _file(source, name)
    return None if file is None else file.read_text(encoding="utf-8")


def _file(source: dict[str, Any], name: str) -> Path | None:
    """A checkpoint's file on this machine; None where it has none, or did not fetch it yet."""
    from transformers.utils import cached_file

    if not source:
        return None
    path, revision = source["pretrained_model_name_or_path"], source.get("revision")
    try:
        return Path(cached_file(path, name, revision=revision, local_files_only=True))
    except OSError:
        return None


def check_sizes(spec: ModelSpec, config: Any) -> None:
    """Raise `ModelNotLoadable` for a size of a config's JSON that no model has.

    Some classes compute with a size, or run through all blocks, before they check it.
    """
    for part in (config, *config.values()) if isinstance(config, dict) else ():
        for name, most in LARGEST.items():
            value = part.get(name, 1) if isinstance(part, dict) else 1
            if isinstance(value, int | float | str) and (type(value) is not int or not 1 <= value <= most):
                raise ModelNotLoadable(
                    f"config.json of model {spec.path!r} has {name}={str(value)[:40]}; it must be a whole "
                    f"number from 1 to {most:,}. Use the config.json that belongs to the weights"
                )


@contextmanager
def explained(spec: ModelSpec, what: str, source: dict[str, Any]) -> Iterator[None]:
    """Turn errors of transformers into `ModelNotLoadable` with the model's name, and the file at fault."""
    try:
        yield
    except UserError:
        raise
    except (
        Exception
    ) as cause:  # any kind: a checkpoint's files are other people's, and transformers trusts them
        if isinstance(cause, torch.OutOfMemoryError | MemoryError) or raised_here(cause):
            raise
        raise ModelNotLoadable(
            f"cannot load {what} of model {spec.path!r}"
            + (f" (revision {spec.revision})" if spec.revision else "")
            + "; allowed are safetensors and GGUF weights that need no code of the checkpoint. "
            + (_unreadable(source) or f"{type(cause).__name__}: {cause}")
        ) from cause


def _unreadable(source: dict[str, Any]) -> str:
    """What is wrong with the first of a checkpoint's JSON files that is no object; empty where all are."""
    for name in JSON_FILES:
        if (file := _file(source, name)) is not None:
            try:
                value = parse_json(file.read_bytes(), name)
            except FileUnreadable as error:
                return f"{error}. Download the checkpoint again"
            if not isinstance(value, dict):
                return (
                    f"{name} is a JSON {type(value).__name__}, not an object. Download the checkpoint again"
                )
    return ""
