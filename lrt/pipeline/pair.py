"""Stage 1: the two models, and the source with random weights that every claim is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lrt.config import Layers
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
    same_tokens,
    tokenizer_digest,
)
from lrt.models.chat_template import ChatTemplate
from lrt.models.sides import SIDES, Side
from lrt.models.stacked import StackedModel
from lrt.pipeline.pair_model import PairModel
from lrt.pipeline.source_stack import StackedPairModel, StackSpec
from lrt.steering import SourcePart


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
    models: Mapping[Side, PairModel[Any]]
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
    def source(self) -> LanguageModel | StackedModel:
        """The source, loaded: one model, or several side by side."""
        return self.loaded("source")

    @property
    def target(self) -> LanguageModel:
        """The target, loaded."""
        return self.model("target")

    def loaded(self, side: Side) -> LanguageModel | StackedModel:
        """What is read of a side, loaded."""
        model: LanguageModel | StackedModel = self.models[side].loaded
        return model

    def model(self, side: Side) -> LanguageModel:
        """The model of a side, loaded: one that can be steered."""
        model = self.loaded(side)
        assert isinstance(model, LanguageModel), "several models have no layer to steer"
        return model

    @property
    def steered(self) -> tuple[Side, ...]:
        """The sides that can be steered: a source of several models cannot."""
        return SIDES if self.stack is None else ("target",)

    @property
    def stack(self) -> StackedPairModel | None:
        """Several source models; None for one."""
        source = self.models["source"]
        return source if isinstance(source, StackedPairModel) else None

    @property
    def source_spec(self) -> ModelSpec | StackSpec:
        """The source as plain data."""
        return _spec_of(self.models["source"])

    @property
    def parts(self) -> tuple[SourcePart, ...]:
        """Several source models in the order of a row; loads them. Empty for one."""
        return () if self.stack is None else self.stack.columns(self.stack.units())

    def members(self, side: Side) -> tuple[LanguageModel, ...]:
        """The models of a side, loaded."""
        loaded = self.loaded(side)
        return (loaded,) if isinstance(loaded, LanguageModel) else tuple(p.lm for p in loaded.parts)

    def described(self) -> dict[str, dict[str, Any]]:
        """Both models as a published map describes them; `identity` is what determines their numbers.

        `path` and `revision` are of the hub: a local folder is nobody else's. Of several sources, the first.
        """
        known = {side: self.identities[side] for side in SIDES}
        models: dict[Side, PairModel[Any]] = dict(self.models)
        if self.stack is not None:
            models["source"], known["source"] = self.stack.parts[0], known["source"]["side by side"][0]
        return {side: _described(models[side], known[side]) for side in SIDES}

    def beside(self) -> list[dict[str, Any]]:
        """The further source models, described likewise, with their layers and units; loads them."""
        if self.stack is None:
            return []
        each = zip(self.stack.parts, self.identities["source"]["side by side"], self.parts, strict=True)
        return [
            {**_described(model, known), "layers": list(part.layers.layers), "unit": part.unit}
            for model, known, part in [*each][1:]
        ]

    @property
    def names(self) -> dict[str, str]:
        """The models' names by side."""
        return {side: self.models[side].spec.name for side in SIDES}


def _described(model: PairModel[Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {
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


def load_pair(
    settings: PairSettings,
    cache: Path,
    blocks: dict[Side, int] | None = None,
    *,
    layers: Layers | None = None,
    weights: bool = True,
) -> ModelPair:
    """Loads both models, or all of several sources.

    layers   Of which several source models are read at theirs; one source needs none.
    cache    Where dequantised GGUF files are kept.
    blocks   By side, how many decoder blocks are needed, from the first; all where none are given.
    weights  Whether they are loaded now, so that what is wrong with them shows before anything costly; else
             when they are first used.

    Raises ModelNotLoadable, and InvalidValue for a chat template or arguments of it that cannot be used; both
    before weights are read, as far as a tokenizer tells.
    """
    tokenizers = {spec: load_tokenizer(spec, cache) for spec in (*settings.sources, settings.target)}

    def model(spec: ModelSpec, side: Side) -> PairModel[LanguageModel]:
        tokenizer = tokenizers[spec]
        return PairModel(
            spec,
            (tokenizer,),
            *depth_and_width_of(spec, cache),
            lambda: load(spec, cache, (blocks or {}).get(side), tokenizer),
        )

    source: PairModel[Any]
    if isinstance(settings.source, ModelSpec):
        source = model(settings.source, "source")
    else:
        assert layers is not None, "several sources are read at layers of their own"
        source = StackedPairModel(tuple(model(spec, "source") for spec in settings.source), layers)
    models: dict[Side, PairModel[Any]] = {"source": source, "target": model(settings.target, "target")}
    first = {side: models[side].tokenizer for side in SIDES}
    aligned = len(source.tokenizers) > 1 or not same_tokens(first["source"], first["target"])
    own = _own_templates(settings, first) if aligned else None
    template = own["target"] if own else _template(settings, first)
    if weights:
        for each in models.values():
            _ = each.loaded
    identities: dict[str, Any] = {
        "source": _identity(_spec_of(source), cache),
        "target": identity(settings.target, cache),
    }
    # most pairs share all of it; models of one vocabulary may begin texts in their own ways
    of_sources = [tokenizer_digest(tokenizers[spec]) for spec in settings.sources]
    of_target = tokenizer_digest(tokenizers[settings.target])
    digests = {"source": of_sources if len(of_sources) > 1 else of_sources[0], "target": of_target}
    identities["tokenizer"] = of_target if {*of_sources} == {of_target} else digests
    if own:
        identities["tokenizer"] = {**digests, "templates": {side: each.facts for side, each in own.items()}}
    return ModelPair(settings.name, models, template, identities, own["source"] if own else None)


def _spec_of(source: PairModel[Any]) -> ModelSpec | StackSpec:
    return source.spec_of_all if isinstance(source, StackedPairModel) else source.spec


def _identity(spec: ModelSpec | StackSpec, cache: Path) -> dict[str, Any]:
    return spec.identity(cache) if isinstance(spec, StackSpec) else identity(spec, cache)


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
    """The source's architecture with random weights, loaded when first used; of several sources, of all."""

    def __init__(self, source: ModelSpec | StackSpec, seed: int, cache: Path) -> None:
        self._spec: ModelSpec | StackSpec = (
            source.untrained(seed)
            if isinstance(source, StackSpec)
            else replace(source, weights="random", seed=seed, name="")
        )
        self._seed, self._cache = seed, cache

    @property
    def name(self) -> str:
        """For people."""
        return f"{self._spec.name}, seed {self._seed}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines its numbers."""
        return _identity(self._spec, self._cache)

    @cached_property
    def model(self) -> LanguageModel | StackedModel:
        """The model itself."""
        return (
            self._spec.load(self._cache)
            if isinstance(self._spec, StackSpec)
            else load(self._spec, self._cache)
        )

    @classmethod
    def draws(
        cls, source: ModelSpec | StackSpec, seed: int, count: int, cache: Path
    ) -> tuple[UntrainedSource, ...]:
        """So many of them, from this seed on: what one of them explains may be chance."""
        return tuple(cls(source, seed + draw, cache) for draw in range(count))
