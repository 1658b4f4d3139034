"""Stage 1: the two models, and the source with random weights that every claim is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lrt.config.pair import PairSettings
from lrt.models import (
    LanguageModel,
    ModelSpec,
    depth_and_width_of,
    identity,
    load,
    load_tokenizer,
    resolve_layer,
    tokenizer_digest,
)
from lrt.models.chat_template import ChatTemplate
from lrt.models.sides import SIDES, Side


class PairModel:
    """A model of the pair: what its config and tokenizer files say, and the model itself, loaded when first
    used.

    A process that only needs what others compute (most of a distributed fit's) never loads its weights.
    """

    def __init__(
        self, spec: ModelSpec, tokenizer: Any, depth: int, width: int, load: Callable[[], LanguageModel]
    ) -> None:
        self.spec, self.tokenizer, self.depth, self.width = spec, tokenizer, depth, width
        self._load = load

    @classmethod
    def of(cls, model: LanguageModel) -> PairModel:
        """A model that is loaded already."""
        return cls(model.spec, model.tokenizer, model.depth, model.width, lambda: model)

    @cached_property
    def loaded(self) -> LanguageModel:
        """The model itself. Raises ModelNotLoadable."""
        return self._load()

    def resolve_layer(self, layer: int | float, setting: str) -> int:
        """As `LanguageModel.resolve_layer`."""
        return resolve_layer(layer, setting, self.depth, self.spec.name)


@dataclass(frozen=True)
class ModelPair:
    """Both models.

    template    The chat template that requests are written in.
    identities  What determines both models' numbers, by side, and the tokenizers' digest.
    """

    name: str
    models: Mapping[Side, PairModel]
    template: ChatTemplate
    identities: dict[str, Any]

    @property
    def source(self) -> LanguageModel:
        """The source, loaded."""
        return self.models["source"].loaded

    @property
    def target(self) -> LanguageModel:
        """The target, loaded."""
        return self.models["target"].loaded

    def model(self, side: Side) -> LanguageModel:
        """The model of a side, loaded."""
        return self.models[side].loaded

    def described(self) -> dict[str, dict[str, Any]]:
        """Both models as a published map describes them; `identity` is what determines their numbers.

        `path` and `revision` are of the hub: a local folder is nobody else's.
        """
        described: dict[str, dict[str, Any]] = {}
        for side in SIDES:
            model, known = self.models[side], self.identities[side]
            described[side] = {
                "name": model.spec.name,
                "path": known.get("hub"),
                "revision": known.get("revision"),
                "weights": model.spec.weights,
                "seed": model.spec.seed,
                "dtype": known["dtype"],
                "depth": model.depth,
                "width": model.width,
                "identity": known,
            }
        return described

    @property
    def names(self) -> dict[str, str]:
        """The models' names by side."""
        return {side: self.models[side].spec.name for side in SIDES}


def load_pair(
    settings: PairSettings, cache: Path, blocks: dict[Side, int] | None = None, *, weights: bool = True
) -> ModelPair:
    """Loads both models.

    cache    Where dequantised GGUF files are kept.
    blocks   By side, how many decoder blocks are needed, from the first; all where none are given.
    weights  Whether they are loaded now, so that what is wrong with them shows before anything costly; else
             when they are first used.

    Raises ModelNotLoadable, and InvalidValue for a chat template or arguments of it that cannot be used; both
    before weights are read, as far as a tokenizer tells.
    """
    specs: dict[Side, ModelSpec] = {"source": settings.source, "target": settings.target}
    tokenizers = {side: load_tokenizer(spec, cache) for side, spec in specs.items()}
    template = _template(settings, tokenizers)

    def model(side: Side) -> PairModel:
        spec, tokenizer = specs[side], tokenizers[side]
        return PairModel(
            spec,
            tokenizer,
            *depth_and_width_of(spec, cache),
            lambda: load(spec, cache, (blocks or {}).get(side), tokenizer),
        )

    models = {side: model(side) for side in SIDES}
    if weights:
        for each in models.values():
            _ = each.loaded
    digests = {side: tokenizer_digest(tokenizer) for side, tokenizer in tokenizers.items()}
    identities: dict[str, Any] = {side: identity(spec, cache) for side, spec in specs.items()}
    # most pairs share all of it; models of one vocabulary may begin texts in their own ways
    identities["tokenizer"] = digests["source"] if len({*digests.values()}) == 1 else digests
    return ModelPair(settings.name, models, template, identities)


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
        return f"{self._spec.name}, seed {self._spec.seed}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines its numbers."""
        return identity(self._spec, self._cache)

    @cached_property
    def model(self) -> LanguageModel:
        """The model itself."""
        return load(self._spec, self._cache)

    @classmethod
    def draws(cls, source: ModelSpec, seed: int, count: int, cache: Path) -> tuple[UntrainedSource, ...]:
        """So many of them, from this seed on: what one of them explains may be chance."""
        return tuple(cls(source, seed + draw, cache) for draw in range(count))
