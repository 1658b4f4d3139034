"""Several models as one: their states side by side, at layers of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.models.language_model import LanguageModel, resolve_layer
from lrt.models.sides import STAYS
from lrt.models.spec import ModelSpec
from lrt.models.tokenization import same_tokens


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

    @property
    def hardware(self) -> str: ...

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]: ...

    def resolve_layer(self, layer: int | float, setting: str) -> int: ...


@dataclass(frozen=True)
class StackedPart:
    """Layers of one model, and the unit that its states are divided by.

    residual_norms  Its own median norm at each layer, where they are known.
    """

    lm: LanguageModel
    layers: tuple[int, ...]
    unit: float = 1.0
    residual_norms: tuple[float, ...] = ()


class StackedModel:
    """States of several models that read the same text, as the one layer 0 of one model.

    A row holds each part's layers in their order, divided by the part's unit. Models differ in the size of
    their states; with units that follow it, one ridge weight and one limit of massive norms suit all.

    Models of one tokenizer read tokens. Those of unlike tokenizers read a text in steps
    (`lrt.corpora.alignment.side_by_side`), each in its own tokens.

    tokenizers  One of each kind, in the order of the models.
    columns     By part, the tokenizer that it reads by.

    Args:
        texts: of which tokenizers of one kind make the same ids, beside `lrt.models.tokenization.PROBES`.

    Raises InvalidValue for no parts or one model twice: layers of one model belong into one part.
    """

    depth = 1

    def __init__(self, parts: Sequence[StackedPart], texts: Iterable[str] = ()) -> None:
        names = [part.lm.spec.name for part in parts]
        check_names(names)
        self.parts = tuple(parts)
        self.width = sum(len(part.layers) * part.lm.width for part in parts)
        self.spec = ModelSpec(path=stack_name(names), name=stack_name(names))
        self.tokenizers, self.columns = tokenizer_kinds([part.lm.tokenizer for part in parts], [*texts])

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

    @property
    def hardware(self) -> str:
        """Where the models run, one after another."""
        return ", ".join(part.lm.hardware for part in self.parts)

    def resolve_layer(self, layer: int | float, setting: str) -> int:
        """The only layer, 0. Raises InvalidValue for another."""
        return resolve_layer(layer, setting, self.depth, self.spec.name)

    def hidden_states(
        self,
        tokens: Tensor,  # [b, t], or of unlike tokenizers [b, t, kinds]
        layers: Sequence[int],
    ) -> dict[int, Tensor]:
        """States of all parts side by side, `{0: [b, t, d]}` on the first model's device.

        At a step at which a model reads no further token, its state is that of the last token it read.
        """
        assert list(layers) == [0], "a stack has one layer"
        sides = []
        for part, column in zip(self.parts, self.columns, strict=True):
            if tokens.ndim == 2:
                states = part.lm.hidden_states(tokens, part.layers)
            else:
                states = _at_steps(part.lm, tokens[..., column], part.layers)
            sides += [states[layer].to(self.device, self.dtype) / part.unit for layer in part.layers]
        return {0: torch.cat(sides, dim=-1)}


def check_names(names: Sequence[str]) -> None:
    """Raise InvalidValue for no models or one twice."""
    if not names or len(set(names)) < len(names):
        raise InvalidValue(f"the source models are {[*names]}; give at least one, and each once")


def stack_name(names: Sequence[str]) -> str:
    """Name of several models as one."""
    return " + ".join(names)


def tokenizer_kinds(
    tokenizers: Sequence[Any], texts: Sequence[str] = ()
) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """One tokenizer of each kind that cuts texts in its own way, and of each tokenizer its kind."""
    kinds: list[Any] = []
    columns = []
    for tokenizer in tokenizers:
        found = (n for n, kind in enumerate(kinds) if same_tokens(kind, tokenizer, texts))
        column = next(found, len(kinds))
        if column == len(kinds):
            kinds.append(tokenizer)
        columns.append(column)
    return tuple(kinds), tuple(columns)


def _at_steps(
    lm: LanguageModel,
    steps: Tensor,  # [b, t], token ids or `STAYS`
    layers: Sequence[int],
) -> dict[int, Tensor]:  # [b, t, d] by layer
    reads = steps != STAYS
    last = (reads.cumsum(dim=1) - 1).clamp(min=0)  # the token that was read last, of the model's own
    rows = torch.arange(len(steps), device=steps.device)[:, None].expand_as(steps)
    tokens = steps.new_zeros(len(steps), max(1, int(reads.sum(dim=1).max())))
    tokens[rows[reads], last[reads]] = steps[reads]
    states = lm.hidden_states(tokens, layers)
    return {layer: each[rows.to(each.device), last.to(each.device)] for layer, each in states.items()}
