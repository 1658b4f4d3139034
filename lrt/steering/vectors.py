"""Steering vectors: extraction from contrastive prompts, and their file format."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.models.language_model import LanguageModel
from lrt.models.last_states import last_states
from lrt.models.prompts import encode_prompts
from lrt.models.sides import HOOK_POINT
from lrt.models.stacked import StackedModel
from lrt.storage.artifact import ArtifactKind, load_artifact, save_artifact

UNIT = "median residual norm"
"""Unit of the strength of a vector that was extracted or transferred here."""


class VectorUnreadable(InvalidValue):
    """A steering-vector file that is missing, damaged or of another kind."""


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector:
    """A direction in the residual stream of one model at one decoder block, with its provenance.

    direction      float32 `[d]`, unscaled: a difference of mean hidden states, in the model's units.
    layer          Zero-based decoder block whose output it is added to.
    model          Name of the model whose space it lives in.
    residual_norm  That model's median residual norm at the layer, massive activations excluded:
                   strength 1 adds a vector of this length.
    method         How it was extracted ("difference of means, last token").
    prompts        SHA-256 over the contrastive prompts.
    map            For a transferred vector: fingerprint of the map, source model and layers, and the
                   reading (`W v` or `A v + p`). None for a native vector.

    Raises InvalidValue for fields of the wrong type, another hook point, a negative layer or norm, and a
    direction that is not a finite `[d]`.
    """

    direction: Tensor
    layer: int
    model: str
    residual_norm: float
    behaviour: str = ""
    method: str = "difference of means, last token"
    operation: str = "add"
    hook_point: str = HOOK_POINT
    unit: str = UNIT
    prompts: str = ""
    map: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        texts = ("model", "behaviour", "method", "operation", "hook_point", "unit", "prompts")
        types: dict[str, tuple[type, ...]] = {
            "layer": (int,),
            "residual_norm": (int, float),
            "map": (dict, type(None)),
            **dict.fromkeys(texts, (str,)),
        }
        for name, allowed in types.items():
            value = getattr(self, name)
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise InvalidValue(
                    f"steering vector: {name}={value!r} is a {type(value).__name__}; it must be a "
                    f"{' or '.join(each.__name__ for each in allowed)}"
                )
        if self.hook_point != HOOK_POINT:
            raise InvalidValue(
                f"steering vector: hook_point={self.hook_point!r} must be {HOOK_POINT!r}, where vectors are "
                "added. The input of block l is the output of block l-1; a vector of another place cannot be "
                "used"
            )
        if self.layer < 0 or not (self.residual_norm >= 0 and math.isfinite(self.residual_norm)):
            raise InvalidValue(
                f"steering vector: layer={self.layer} and residual_norm={self.residual_norm} must be finite "
                "and at least 0"
            )
        if not self.direction.is_floating_point():
            raise InvalidValue(
                f"steering vector {self.behaviour!r}: direction has dtype {self.direction.dtype}; it must be "
                "floating-point, as direction.float() is"
            )
        if self.direction.ndim != 1:
            raise InvalidValue(f"a steering vector must be [d]; got shape {list(self.direction.shape)}")
        if not torch.isfinite(self.direction).all():
            raise InvalidValue(f"the steering vector {self.behaviour!r} has non-finite entries")
        if not math.isfinite(self.norm):
            raise InvalidValue(
                f"the steering vector {self.behaviour!r} is too long: its norm overflows float32"
            )

    def __repr__(self) -> str:
        provenance = self.method
        if self.map is not None:
            layers = ", ".join(map(str, self.map.get("from_layers", ())))
            provenance = f"transferred from {self.map.get('from_model')} layer {layers}"
        return (
            f"SteeringVector({self.behaviour!r}, {self.model} layer {self.layer}, norm {self.norm:.4g}, "
            f"{provenance})"
        )

    @property
    def norm(self) -> float:
        """Unscaled length, in the model's units."""
        return float(self.direction.norm())

    @property
    def unit_direction(self) -> Tensor:
        """`[d]` of length 1. Raises InvalidValue for a zero vector, which has no direction."""
        # below, torch's normalize would return a vector shorter than 1
        if not self.norm > 1e-12:
            raise InvalidValue(
                f"the steering vector {self.behaviour!r} of {self.model} at layer {self.layer} is zero, so "
                "it has no direction: use positive and negative prompts that differ"
            )
        return torch.nn.functional.normalize(self.direction, dim=0)

    def scaled(self) -> Tensor:
        """`[d]` of strength 1: one median residual norm long."""
        return self.unit_direction * self.residual_norm

    def save(self, folder: Path | str) -> None:
        """Write `vector.safetensors` and its card `vector.json`, replacing those in the folder."""
        described = {name: getattr(self, name) for name in VECTOR.needed}
        tensors = {"direction": self.direction.float()}
        save_artifact(VECTOR, Path(folder), tensors, {**described, "norm": self.norm}, {})

    @classmethod
    def load(cls, folder: Path | str) -> SteeringVector:
        """Read the vector that `save` wrote. Raises `VectorUnreadable` naming the file and the fault."""
        vector, _ = load_artifact(
            VECTOR, Path(folder), lambda tensors, described: cls(direction=tensors["direction"], **described)
        )
        return vector


VECTOR = ArtifactKind(
    name="steering vector",
    article="a",
    entry="vector",
    format="lrt-steering-vector",
    version=1,
    weights_file="vector.safetensors",
    card_file="vector.json",
    missing=VectorUnreadable,
    corrupt=VectorUnreadable,
    foreign=VectorUnreadable,
    needed=tuple(each.name for each in fields(SteeringVector) if each.name != "direction"),
)


def prompts_digest(positives: Sequence[str], negatives: Sequence[str]) -> str:
    """SHA-256 over both sides of a set of contrastive prompts, in order."""
    return hashlib.sha256(json.dumps([list(positives), list(negatives)]).encode()).hexdigest()


def last_token_states(
    lm: LanguageModel | StackedModel,
    texts: Sequence[str],
    layers: int | Sequence[int],
    batch_tokens: int = 8192,
) -> Tensor:  # [n, d] float32, on the CPU; of several layers [n, layers x d], side by side
    """Hidden state of each text's last token at a layer, or at several layers in one pass.

    A beginning that several of the texts share runs once, so texts that share much belong in one call: a
    question with either answer costs little more than the question.

    Several models as one have the layer 0: the states of all of them side by side, each text read in each
    model's own tokens.

    Raises InvalidValue for a state that is infinite or NaN.
    """
    layers = [layers] if isinstance(layers, int) else list(layers)
    if isinstance(lm, StackedModel):
        assert layers == [0], "a stack has one layer"
        parts = (
            last_token_states(part.lm, texts, part.layers, batch_tokens) / part.unit for part in lm.parts
        )
        return torch.cat([*parts], dim=1)
    states = last_states(lm, encode_prompts(lm.tokenizer, texts), layers, batch_tokens)
    bad = (~states.isfinite().all(dim=-1)).nonzero()
    if len(bad):
        text, layer = bad[0].tolist()
        raise InvalidValue(
            f"the hidden state of {lm.spec.name} at layer {layers[layer]} is infinite or NaN in {lm.dtype}, "
            f"for the text {texts[text][-60:]!r}. Run the model in bfloat16 or float32"
        )
    return states.flatten(1)


def contrast_states(
    lm: LanguageModel | StackedModel,
    positives: Sequence[str],
    negatives: Sequence[str],
    layers: int | Sequence[int],
) -> tuple[Tensor, Tensor]:  # [n, layers x d], [m, layers x d] float32, on the CPU
    """`last_token_states` of both sides of a set of contrastive prompts, which share their beginnings."""
    states = last_token_states(lm, [*positives, *negatives], layers)
    return states[: len(positives)], states[len(positives) :]


def difference_of_means(
    positives: Tensor,  # [n, d]
    negatives: Tensor,  # [m, d]
) -> Tensor:  # [d] float32
    """CAA's vector (Rimsky et al., 2312.06681): mean positive minus mean negative state."""
    return (positives.double().mean(dim=0) - negatives.double().mean(dim=0)).float()
