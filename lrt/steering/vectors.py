"""Steering vectors: how one is found, and the file that says what it means."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lrt.models.language_model import LanguageModel
from lrt.models.padding import last_columns, pad
from lrt.models.prompts import encode
from lrt.storage.durable import write_durably
from lrt.storage.sealed import Altered, opened, sealed, unsealed

HOOK_POINT = "block output, residual stream, before the final norm"


class VectorUnreadable(ValueError):
    """A steering-vector file that is missing a part, damaged or of another kind."""


@dataclass(frozen=True)
class SteeringVector:
    """A direction in the residual stream of one model at one block, and where it came from.

    direction      float32 `[d]`, as found: a difference of mean hidden states, in the model's units.
    layer          Zero-based block whose output it is added to.
    model          Name of the model whose space it lives in.
    residual_norm  That model's median residual norm at the layer, massive activations left out:
                   strength 1 adds a vector of this length.
    method         How it was found ("difference of means, last token").
    prompts        SHA-256 over the contrastive texts.
    map            For a transferred vector: fingerprint of the map, and whether it was read
                   literally (`A v + p`); else None.
    """

    direction: Tensor
    layer: int
    model: str
    residual_norm: float
    behaviour: str = ""
    method: str = "difference of means, last token"
    operation: str = "add"
    hook_point: str = HOOK_POINT
    unit: str = "median residual norm"
    prompts: str = ""
    map: dict[str, Any] | None = field(default=None)

    def __post_init__(self) -> None:
        texts = ("model", "behaviour", "method", "operation", "hook_point", "unit", "prompts")
        kinds: dict[str, tuple[type, ...]] = {
            "layer": (int,),
            "residual_norm": (int, float),
            "map": (dict, type(None)),
            **dict.fromkeys(texts, (str,)),
        }
        for name, allowed in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise ValueError(f"{name}={value!r} of a steering vector is a {type(value).__name__}")
        if self.layer < 0 or not (self.residual_norm >= 0 and math.isfinite(self.residual_norm)):
            raise ValueError(
                f"a steering vector has a block from 0 on and a finite residual norm of at least 0; got "
                f"layer={self.layer}, residual_norm={self.residual_norm}"
            )
        if self.direction.ndim != 1:
            raise ValueError(f"a steering vector is [d]; got {list(self.direction.shape)}")
        if not torch.isfinite(self.direction).all():
            raise ValueError(f"the steering vector {self.behaviour!r} has non-finite entries")

    @property
    def norm(self) -> float:
        """Length as found, in the model's units."""
        return float(self.direction.norm())

    @property
    def unit_direction(self) -> Tensor:
        """`[d]` of length 1; raises ValueError for a zero vector, which has no direction."""
        if not self.norm > 0:
            raise ValueError(
                f"the steering vector {self.behaviour!r} is zero: its positive and negative "
                "prompts have the same mean state"
            )
        return torch.nn.functional.normalize(self.direction, dim=0)

    def scaled(self) -> Tensor:
        """`[d]` of strength 1: one median residual norm long."""
        return self.unit_direction * self.residual_norm

    def save(self, folder: Path) -> None:
        """Writes `vector.safetensors` and `vector.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        payload = save({"direction": self.direction.float().contiguous()})
        write_durably(folder / "vector.safetensors", payload)
        card = {
            key: value
            for key, value in asdict(replace(self, direction=torch.zeros(1))).items()
            if key != "direction"
        }
        card |= {
            "kind": "lrt steering vector",
            "norm": self.norm,
            "sha256": hashlib.sha256(payload).hexdigest(),
        }
        write_durably(folder / "vector.json", sealed(card).encode())

    @classmethod
    def load(cls, folder: Path) -> SteeringVector:
        """Reads what `save` wrote; raises `VectorUnreadable` naming the file and the fault."""
        card_file, file = folder / "vector.json", folder / "vector.safetensors"
        try:
            card = opened(card_file.read_bytes())
            payload = file.read_bytes()
        except (OSError, ValueError) as error:
            raise VectorUnreadable(f"no steering vector can be read from {folder}: {error}") from error
        if card.get("kind") != "lrt steering vector":
            raise VectorUnreadable(f"{card_file} does not describe a steering vector of lrt")
        try:
            card = unsealed(card)
        except Altered as error:
            raise VectorUnreadable(f"{card_file} was altered: {error}") from error
        del card["kind"]
        if card.pop("sha256", None) != hashlib.sha256(payload).hexdigest():
            raise VectorUnreadable(f"{file} is damaged: its checksum is not the one in its card")
        card.pop("norm", None)
        try:
            return cls(direction=load(payload)["direction"], **card)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise VectorUnreadable(f"the steering vector in {folder} cannot be read: {error}") from error


def prompts_digest(positives: Sequence[str], negatives: Sequence[str]) -> str:
    """SHA-256 over both sides of a contrastive set, in order."""
    return hashlib.sha256(json.dumps([list(positives), list(negatives)]).encode()).hexdigest()


def last_token_states(
    lm: LanguageModel, texts: Sequence[str], layers: int | Sequence[int], batch_tokens: int = 8192
) -> Tensor:  # [n, d] float32, on the CPU; of several layers [n, layers x d], side by side
    """Hidden state of each text's last token at a layer, or at several in one pass.

    Texts are batched by length so that little is padded; padding does not change the numbers.
    """
    rows = encode(lm.tokenizer, texts)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    layers = [layers] if isinstance(layers, int) else list(layers)
    states = torch.empty(len(rows), len(layers), lm.width)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and len(rows[order[stop]]) * (stop + 1 - start) <= batch_tokens:
            stop += 1
        batch = order[start:stop]
        tokens, mask = pad([rows[i] for i in batch])
        hidden = lm.hidden_states(tokens, layers, mask)
        for at, layer in enumerate(layers):
            columns = last_columns(mask).to(hidden[layer].device)
            states[batch, at] = hidden[layer][torch.arange(len(batch)), columns].float().cpu()
        start = stop
    return states.flatten(1)


def difference_of_means(
    positives: Tensor,  # [n, d]
    negatives: Tensor,  # [m, d]
) -> Tensor:  # [d] float32
    """CAA's vector (Rimsky et al., 2312.06681): mean positive minus mean negative state."""
    return (positives.double().mean(dim=0) - negatives.double().mean(dim=0)).float()
