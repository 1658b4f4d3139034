"""Stage 1: the two models, and the source with random weights that every claim is held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lrt.config.pair import PairSettings
from lrt.models import LanguageModel, ModelSpec, identity, load, tokenizer_digest
from lrt.models.sides import SIDES, Side


@dataclass(frozen=True)
class ModelPair:
    """Both models, loaded.

    template    The tokenizer in whose chat template requests are written.
    identities  What determines both models' numbers, by side, and the tokenizer's digest.
    """

    name: str
    source: LanguageModel
    target: LanguageModel
    template: Any
    identities: dict[str, Any]

    def model(self, side: Side) -> LanguageModel:
        """The model of a side."""
        return self.source if side == "source" else self.target

    @property
    def names(self) -> dict[str, str]:
        """The models' names by side."""
        return {side: self.model(side).spec.name for side in SIDES}


def load_pair(settings: PairSettings, cache: Path, blocks: dict[Side, int] | None = None) -> ModelPair:
    """Loads both models.

    cache   Where dequantised GGUF files are kept.
    blocks  By side, how many decoder blocks are needed, from the first; all where none are given.

    Raises ModelNotLoadable.
    """
    blocks = blocks or {}
    source = load(settings.source, cache, blocks.get("source"))
    target = load(settings.target, cache, blocks.get("target"))
    template = source.tokenizer
    if settings.template == "target" or (settings.template == "auto" and not template.chat_template):
        template = target.tokenizer
    identities = {
        "source": identity(settings.source, cache),
        "target": identity(settings.target, cache),
        "tokenizer": tokenizer_digest(source.tokenizer),
    }
    return ModelPair(settings.name, source, target, template, identities)


class UntrainedSource:
    """The source's architecture with random weights, loaded when first used."""

    def __init__(self, source: ModelSpec, seed: int, cache: Path) -> None:
        self._spec = replace(source, weights="random", seed=seed, name="")
        self._cache = cache

    @property
    def name(self) -> str:
        """For people."""
        return self._spec.name

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines its numbers."""
        return identity(self._spec, self._cache)

    @cached_property
    def model(self) -> LanguageModel:
        """The model itself."""
        return load(self._spec, self._cache)
