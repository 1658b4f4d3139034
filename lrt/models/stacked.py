"""Several models as one: their states side by side, at layers of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.models.language_model import LanguageModel, resolve_layer
from lrt.models.spec import ModelSpec


class StateModel(Protocol):
    """What a pass over the corpus needs of a model: its states at numbered layers."""

    depth: int
    width: int

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]: ...

    def resolve_layer(self, layer: int | float, setting: str) -> int: ...

    @property
    def tokenizer(self) -> Any: ...


@dataclass(frozen=True)
class StackedPart:
    """Layers of one model, and the unit that its states are divided by."""

    lm: LanguageModel
    layers: tuple[int, ...]
    unit: float = 1.0


class StackedModel:
    """States of several models that read the same tokens, as the one layer 0 of one model.

    A row holds each part's layers in their order, divided by the part's unit. Models differ in the size of
    their states; with units that follow it, one ridge weight and one limit of massive norms suit all.

    Raises InvalidValue for no parts or one model twice: layers of one model belong into one part.
    """

    depth = 1

    def __init__(self, parts: Sequence[StackedPart]) -> None:
        names = [part.lm.spec.name for part in parts]
        if not parts or len(set(names)) < len(names):
            raise InvalidValue(f"the source models are {names}; give at least one, and each once")
        self.parts = tuple(parts)
        self.width = sum(len(part.layers) * part.lm.width for part in parts)
        self.spec = ModelSpec(path=" + ".join(names), name=" + ".join(names))

    @property
    def tokenizer(self) -> Any:
        """The first model's."""
        return self.parts[0].lm.tokenizer

    @property
    def device(self) -> torch.device:
        """The first model's: where tokens go and states are gathered."""
        return self.parts[0].lm.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the states: the widest of the models'."""
        dtypes = [part.lm.dtype for part in self.parts]
        # units are not exact in half precision
        return max((*dtypes, torch.float32), key=lambda dtype: dtype.itemsize)

    def resolve_layer(self, layer: int | float, setting: str) -> int:
        """The only layer, 0. Raises InvalidValue for another."""
        return resolve_layer(layer, setting, self.depth, self.spec.name)

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """States of all parts side by side, `{0: [b, t, d]}` on the first model's device."""
        assert list(layers) == [0], "a stack has one layer"
        sides = []
        for part in self.parts:
            states = part.lm.hidden_states(tokens, part.layers)
            sides += [states[layer].to(self.device, self.dtype) / part.unit for layer in part.layers]
        return {0: torch.cat(sides, dim=-1)}
