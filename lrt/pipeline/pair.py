"""Stage 1: the two models, and the source with random weights that every claim is held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lrt.config.pair import PairSettings
from lrt.models import LanguageModel, ModelSpec, identity, load, load_tokenizer, tokenizer_digest
from lrt.models.chat_template import ChatTemplate
from lrt.models.sides import SIDES, Side


@dataclass(frozen=True)
class ModelPair:
    """Both models, loaded.

    template    The chat template that requests are written in.
    identities  What determines both models' numbers, by side, and the tokenizers' digest.
    """

    name: str
    source: LanguageModel
    target: LanguageModel
    template: ChatTemplate
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

    Raises ModelNotLoadable, and InvalidValue for a chat template or arguments of it that cannot be used; both
    before weights are read, as far as a tokenizer tells.
    """
    blocks = blocks or {}
    specs: dict[Side, ModelSpec] = {"source": settings.source, "target": settings.target}
    tokenizers = {side: load_tokenizer(spec, cache) for side, spec in specs.items()}
    template = _template(settings, tokenizers)
    models = {side: load(spec, cache, blocks.get(side), tokenizers[side]) for side, spec in specs.items()}
    digests = {side: tokenizer_digest(tokenizer) for side, tokenizer in tokenizers.items()}
    identities: dict[str, Any] = {side: identity(spec, cache) for side, spec in specs.items()}
    # most pairs share all of it; models of one vocabulary may begin texts in their own ways
    identities["tokenizer"] = digests["source"] if len({*digests.values()}) == 1 else digests
    return ModelPair(settings.name, models["source"], models["target"], template, identities)


def _template(settings: PairSettings, tokenizers: dict[Side, Any]) -> ChatTemplate:
    side: Side = "target" if settings.template == "target" else "source"
    if settings.template == "auto" and not tokenizers["source"].chat_template:
        side = "target"
    template = ChatTemplate.of(tokenizers[side], settings.template_kwargs)
    template.check()
    return template


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
