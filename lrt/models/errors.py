"""Errors of models that cannot be loaded."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from lrt.errors import InvalidValue
from lrt.models.blocks import find_blocks


class ModelNotLoadable(InvalidValue):
    """A model spec that cannot be loaded; the message says what is missing and how to fix it."""


def check_complete(path: str, model: Any, report: Mapping[str, Any]) -> None:
    """Raise `ModelNotLoadable` for tensors that are missing or of other shapes than the config's, and for
    stored decoder blocks that the config leaves out.

    report  transformers' loading info. It would fill such tensors with random numbers.
    """
    if missing := report["missing_keys"]:
        raise ModelNotLoadable(
            f"the weights of model {path!r} are incomplete: {len(missing)} tensors are missing, the first is "
            f"{min(missing)}. Download the checkpoint again"
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise ModelNotLoadable(
            f"the weights of model {path!r} do not fit its config: {len(mismatched)} tensors have another "
            f"shape, the first is {name}, {list(stored)} in the file and {list(expected)} by config.json. "
            "Use the config.json that belongs to the weights"
        )
    if left_out := _blocks_left_out(model, report["unexpected_keys"]):
        depth = model.config.get_text_config(decoder=True).num_hidden_layers
        raise ModelNotLoadable(
            f"the weights of model {path!r} do not fit its config: it has decoder block {max(left_out)}, "
            f"which num_hidden_layers={depth} of config.json leaves out. Use the config.json that belongs to "
            "the weights"
        )


def _blocks_left_out(model: Any, unexpected: Collection[str]) -> list[int]:
    """Numbers of decoder blocks that are stored and not in the model.

    A further entry of the list that has a module unlike any decoder block's predicts several tokens at once
    (`eh_proj`), and is no part of the model.
    """
    _, blocks = find_blocks(model)
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    name = next(name for name, module in model.named_modules() if module is blocks)
    known = {
        part
        for block in blocks
        for part, _ in [*block.named_children(), *block.named_parameters(recurse=False)]
    }
    stored: dict[int, set[str]] = defaultdict(set)
    for key in unexpected:
        entry = re.fullmatch(r"(.*?)\.(\d+)\.(\w+).*", key)
        if entry and f".{name}".endswith(f".{entry[1]}"):  # a checkpoint may omit the outer names
            stored[int(entry[2])].add(entry[3])
    return [number for number, parts in stored.items() if number >= depth and parts <= known]
