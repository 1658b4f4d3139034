"""One side of a pair, known from its files before its weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from lrt.models import LanguageModel, ModelSpec, resolve_layer
from lrt.models.stacked import StateModel
from lrt.report import format_layers

Loaded = TypeVar("Loaded", bound=StateModel)


class PairModel(Generic[Loaded]):
    """A model of the pair: what its config and tokenizer files say, and the model itself, loaded when first
    used.

    A process that only needs what others compute (most of a distributed fit's) never loads its weights.

    tokenizers  Those that it reads texts by: one, or of several models one of each kind.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tokenizers: tuple[Any, ...],
        depth: int,
        width: int,
        load: Callable[[], Loaded],
    ) -> None:
        self.spec, self.tokenizers, self.depth, self.width = spec, tokenizers, depth, width
        self._load = load

    @staticmethod
    def of(model: LanguageModel) -> PairModel[LanguageModel]:
        """A model that is loaded already."""
        return PairModel(model.spec, (model.tokenizer,), model.depth, model.width, lambda: model)

    @property
    def tokenizer(self) -> Any:
        """The first one."""
        return self.tokenizers[0]

    @cached_property
    def loaded(self) -> Loaded:
        """The model itself. Raises ModelNotLoadable."""
        return self._load()

    def places(self, layers: Sequence[int]) -> str:
        """Some layers of it, for people."""
        return f"{self.spec.name} {format_layers(layers)} of {self.depth}"

    def resolve_layer(self, layer: int | float, setting: str) -> int:
        """As `LanguageModel.resolve_layer`."""
        return resolve_layer(layer, setting, self.depth, self.spec.name)
