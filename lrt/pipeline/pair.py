"""Stage 1: the two models, and the source with random weights that every claim is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lrt.config.pair import PairSettings
from lrt.errors import InvalidValue
from lrt.evaluation import Behaviour
from lrt.evaluation.suites import SuiteSettings, build_suite
from lrt.models import (
    LanguageModel,
    ModelSpec,
    depth_and_width_of,
    identity,
    load,
    load_tokenizer,
    resolve_layer,
    same_tokens,
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
    source_template    Where the two models have different tokens: the source's own template; `template` is
                       the target's then.
    source_behaviours  By name, what the source reads of behaviours whose chats are in its own template.
    """

    name: str
    models: Mapping[Side, PairModel]
    template: ChatTemplate
    identities: dict[str, Any]
    source_template: ChatTemplate | None = None
    source_behaviours: Mapping[str, Behaviour] = field(default_factory=dict)

    @property
    def aligned(self) -> bool:
        """Whether the two models read text in different tokens, whose spans are paired."""
        return self.source_template is not None

    def with_suite(self, settings: SuiteSettings) -> tuple[tuple[Behaviour, ...], ModelPair]:
        """The behaviours of a suite, and the pair that knows how each model reads them.

        Raises as `build_suite`.
        """
        suite = build_suite(settings, lambda: self.template)
        if not self.aligned:
            return suite, self
        read = {each.name: each for each in build_suite(settings, lambda: self.source_template)}
        return suite, replace(self, source_behaviours=read)

    def read_by(self, side: Side, behaviour: Behaviour) -> Behaviour:
        """A behaviour as a model reads it."""
        return self.source_behaviours.get(behaviour.name, behaviour) if side == "source" else behaviour

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
    aligned = not same_tokens(tokenizers["source"], tokenizers["target"])
    own = _own_templates(settings, tokenizers) if aligned else None
    template = own["target"] if own else _template(settings, tokenizers)

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
    if own:
        identities["tokenizer"] = {**digests, "templates": {side: each.facts for side, each in own.items()}}
    return ModelPair(settings.name, models, template, identities, own["source"] if own else None)


def _own_templates(settings: PairSettings, tokenizers: dict[Side, Any]) -> dict[Side, ChatTemplate]:
    """Each model's own template; plain roles for one without."""
    if settings.template != "auto":
        raise InvalidValue(
            f"pair.template={settings.template}: the two models have different tokenizers, so each reads "
            "chats in its own template; set pair.template=auto"
        )
    plain = {side: ChatTemplate.of(tokenizer).or_plain_roles() for side, tokenizer in tokenizers.items()}
    arguments = settings.template_kwargs or {}
    read = {side: {k: v for k, v in arguments.items() if k in plain[side].settable} for side in SIDES}
    if unread := {k: v for k, v in arguments.items() if not any(k in each for each in read.values())}:
        replace(plain["target"], arguments=unread).check()  # which says what is allowed
    templates = {side: replace(plain[side], arguments=read[side]) for side in SIDES}
    for template in templates.values():
        template.check()
    return templates


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
