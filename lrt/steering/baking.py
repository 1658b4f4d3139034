"""Baking steering vectors into a checkpoint: a bias adds them, in any software, without a hook."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lrt.errors import InvalidValue, UserError
from lrt.models import hooks
from lrt.models.biased_copies import biased_copies, biases_of_block, reload, save_copy
from lrt.models.capabilities import trial_texts
from lrt.models.language_model import LanguageModel
from lrt.numbers import finite
from lrt.steering.addition import RowwiseAddition
from lrt.steering.formats.directions import directions_of, listed
from lrt.steering.vectors import SteeringVector
from lrt.storage.durable import write_folder_durably
from lrt.storage.text_files import read_json

CARD = "baked.json"
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference of logits, relative to what steering changes in them."""


class CannotBake(UserError):
    """The architecture has no bias that does what steering does."""


@dataclass(frozen=True)
class Baked:
    """A checkpoint that steers by itself.

    folder  With config, safetensors and tokenizer: any transformers loads it, without this package.
    biases  `{layer: parameter}` that the vectors were added to.
    change  What its config says otherwise than the model's: "mlp_bias=True"; empty if nothing.
    error   Largest difference between its logits, loaded again, and those of the model steered by hooks.
    """

    folder: Path
    biases: dict[int, str]
    change: str
    error: float

    def __repr__(self) -> str:
        change = f", config with {self.change}" if self.change else ""
        return (
            f"Baked({self.folder}: {', '.join(self.biases.values())}{change}, logits within {self.error:.1g})"
        )


def bake(
    lm: LanguageModel,
    vectors: SteeringVector | Sequence[SteeringVector],
    folder: Path | str,
    *,
    strength: float,
) -> Baked:
    """Write a copy of a model that adds one vector, or one at each of several blocks, at `strength`.

    The vector becomes part of a bias that is added to the block's output: at every position of every text, as
    `steer` does. Which bias that is, is found by trial: its logits must be those of steering by hooks. An
    architecture without such a bias gets one by an option of its config, or as a Llama, where that computes
    the same. The checkpoint is loaded again by transformers and compared before it gets its name, which needs
    memory for a second copy of the model.

    folder  A new or empty folder. Weights are written in the dtype in which the model is loaded.

    Raises CannotBake for an architecture where no bias does it, InvalidValue for a vector of another width or
    layer, one that is not added, a folder that is not empty, and a model that is not whole in memory.
    """
    folder, strength = Path(folder), finite("strength", strength)
    directions = directions_of(vectors, "a baked model")
    _check(lm, directions, folder)
    tokens = trial_texts(lm, 2)
    model, change, biases = _chosen(lm, directions, tokens)
    added = {biases[layer]: strength * direction for layer, direction in directions.items()}
    card = {
        "config": change,
        "vectors": [
            *_baked_before(lm),
            *(
                {name: getattr(v, name) for name in ("model", "layer", "behaviour", "method", "map")}
                | {"bias": biases[v.layer], "strength": strength, "length": abs(strength) * v.residual_norm}
                for v in sorted(listed(vectors), key=lambda v: v.layer)
            ),
        ],
    }
    steered = _logits(lm.model, tokens, lm, {n: strength * d for n, d in directions.items()})
    errors: list[float] = []

    def write(temporary: Path) -> None:
        save_copy(model, _replaced(model, added), lm.tokenizer, temporary)
        (temporary / CARD).write_text(json.dumps(card, indent=2) + "\n")
        again = _logits(reload(temporary, lm.model), tokens)
        errors.append(float((again - steered).abs().max()))
        if not errors[0] <= TOLERANCES[lm.dtype] * max(1.0, float(steered.abs().max())):
            raise CannotBake(
                f"{type(model).__name__} with a steering vector in {', '.join(added)} has other logits once "
                f"it is loaded again: they differ by {errors[0]:.2g}. {_INSTEAD}"
            )

    write_folder_durably(folder, write)
    return Baked(folder, biases, change, errors[0])


_INSTEAD = (
    "Steer it by hooks (lrt.steer), or write the vector for a server that adds it: "
    "write_vectors(vector, FILE) for llama.cpp, or another format of docs/formats.md"
)


def _baked_before(lm: LanguageModel) -> list[Any]:
    """The vectors that the model's own checkpoint says were baked into it."""
    card = Path(lm.spec.path) / CARD
    return list(read_json(card)["vectors"]) if card.is_file() else []


def _check(lm: LanguageModel, directions: Mapping[int, Tensor], folder: Path) -> None:
    for layer, direction in directions.items():
        lm.resolve_layer(layer, "layer of the steering vector")
        if len(direction) != lm.width:
            raise InvalidValue(
                f"the steering vector of layer {layer} has width {len(direction)}; {lm.spec.name} has hidden "
                f"states of {lm.width}"
            )
    if hooks.hooked(lm):
        raise InvalidValue(
            f"{lm.spec.name} is steered or read by hooks now, which a checkpoint does not hold; bake outside "
            "of `with lrt.steer(...)`"
        )
    place = next(each for each in folder.absolute().parents if each.exists())
    if not place.is_dir():
        raise InvalidValue(f"{folder} cannot be written: {place} is a file; name a place in a folder")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidValue(f"{folder} exists and is not an empty folder; name a new one")
    if len(lm.blocks) < lm.depth or any(each.is_meta for each in lm.model.parameters()):
        raise InvalidValue(
            f"{lm.spec.name} is not whole in memory, so it cannot be written; load it without device_map"
        )
    if lm.dtype not in TOLERANCES:
        raise InvalidValue(f"{lm.spec.name} is in {lm.dtype}; load it in float32, bfloat16 or float16")


def _chosen(
    lm: LanguageModel, directions: Mapping[int, Tensor], tokens: Tensor
) -> tuple[Any, str, dict[int, str]]:
    """The model itself or a copy, what its config says otherwise, and a bias for each block."""
    plain = _logits(lm.model, tokens)
    trials = {}
    with torch.no_grad(), hooks.capture(lm, [*directions]) as states:
        lm.run(tokens)
        for layer, direction in directions.items():
            # as long as the states there, so that rounding is small beside what it changes
            size = states[layer].float().norm(dim=-1).median().cpu()
            trials[layer] = direction * (size / direction.norm())
    steered = {layer: _logits(lm.model, tokens, lm, {layer: trial}) for layer, trial in trials.items()}
    tried = []
    for each in biased_copies(lm.model):
        biases: dict[int, str] = {}
        for layer, trial in trials.items():
            allowed = TOLERANCES[lm.dtype] * float((steered[layer] - plain).abs().max())
            for name in biases_of_block(each.model, layer, lm.width):
                logits = _logits(each.model, tokens, replaced=_replaced(each.model, {name: trial}))
                if (logits - steered[layer]).abs().max() <= allowed:
                    biases[layer] = name
                    break
            else:
                tried.append(f"block {layer}" + (f" with {each.change}" if each.change else ""))
                break
        else:
            return each.model, each.change, biases
    raise CannotBake(
        f"{lm.spec.name} ({type(lm.model).__name__}) has no bias that is added to a block's output; tried: "
        f"{', '.join(tried)}. {_INSTEAD}"
    )


def _replaced(model: Any, added: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by name, with something added."""
    old = {name: model.get_parameter(name) for name in added}
    return {name: (bias.float() + added[name].to(bias.device)).to(bias.dtype) for name, bias in old.items()}


@torch.no_grad()
def _logits(
    model: Any,
    tokens: Tensor,
    lm: LanguageModel | None = None,
    offsets: Mapping[int, Tensor] | None = None,  # {layer: [d]}
    replaced: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Logits of a transformers model; with something added by `lm`'s hooks, or with parameters replaced."""
    edits = [hooks.AtLayer(n, RowwiseAddition(d[None])) for n, d in (offsets or {}).items()]
    inputs = {"input_ids": tokens, "use_cache": False}
    if lm is None:
        logits = functional_call(model, dict(replaced or {}), (), inputs).logits
    else:
        with hooks.steer(lm, edits):
            logits = model(**inputs).logits
    assert isinstance(logits, Tensor)
    return logits.float().cpu()
