"""Stage 3: last-token states of the contrastive prompts in both models, and their steering vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lrt.evaluation import Behaviour, ContrastStates, ModelStates, other_contrast
from lrt.models import LanguageModel
from lrt.models.sides import SIDES, Side
from lrt.models.stacked import StackedModel
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.pair import ModelPair, UntrainedSource
from lrt.steering import SourcePart, contrast_states, prompts_digest
from lrt.storage.cache import JSON, TENSORS, Cache


def contrasts_of(behaviours: Iterable[Behaviour]) -> dict[str, Behaviour]:
    """One behaviour for each contrastive set, by the contrast's name."""
    return {behaviour.contrast: behaviour for behaviour in reversed(tuple(behaviours))}


def needed_contrasts(
    suite: Iterable[Behaviour], evaluated: Iterable[Behaviour], steered: Iterable[str] = ()
) -> dict[str, Behaviour]:
    """The contrastive sets of a suite whose vectors a run reads, by the contrast's name.

    - Of every behaviour that is evaluated: its vector is what the run is about.
    - The next one of the suite for each of these: transferred, it is the null `other`. Which one it is
      follows from the whole suite, so a null stays the same whichever behaviours are evaluated.
    - Of every behaviour of the suite that is `steered` besides, during training or by features, by name.

    Of the others only the texts count: documents that share them are excluded from the fit.
    """
    suite = tuple(suite)
    contrasts, steered = contrasts_of(suite), set(steered)
    wanted = {behaviour.contrast for behaviour in evaluated}
    nulls = {other for contrast in wanted if (other := other_contrast(contrast, contrasts)) is not None}
    wanted |= nulls | {behaviour.contrast for behaviour in suite if behaviour.name in steered}
    return {name: behaviour for name, behaviour in contrasts.items() if name in wanted}


def prompts_digests(contrasts: Mapping[str, Behaviour]) -> dict[str, str]:
    """Digests of the contrastive sets by name."""
    return {n: prompts_digest(b.positives, b.negatives) for n, b in sorted(contrasts.items())}


@dataclass(frozen=True)
class Vectors:
    """States of contrastive sets at the recorded layers, in both models and the untrained sources.

    states  By contrast, of the sets that were extracted (`needed_contrasts`).
    """

    layers: LayerPair
    states: Mapping[str, ContrastStates]

    def at(self, layers: LayerPair) -> dict[str, ContrastStates]:
        """The same at some of these layers."""
        wanted = [each.layers for each in layers]
        return {name: states.at(*wanted) for name, states in self.states.items()}


def extract_vectors(
    pair: ModelPair,
    layers: LayerPair,
    contrasts: Mapping[str, Behaviour],
    norms: Mapping[str, float],
    untrained: Sequence[UntrainedSource],
    cache: Cache,
    monitor: Monitor,
) -> Vectors:
    """Runs the contrastive prompts through both models and the untrained sources; cached by model, layers
    and prompts.

    norms  Median residual norms by `source.LAYER` and `target.LAYER`.
    """

    def states_of(
        behaviour: Behaviour, side: Side, identity: Any, model: Callable[[], LanguageModel | StackedModel]
    ) -> tuple[Tensor, Tensor]:
        depths, read = layers.of(side).layers, pair.read_by(side, behaviour)

        def make() -> dict[str, Any]:
            positive, negative = contrast_states(model(), read.positives, read.negatives, depths)
            # safetensors takes no tensors that share memory
            return {"positive": positive.clone(), "negative": negative.clone()}

        facts = {
            "model": identity,
            "tokenizer": pair.identities["tokenizer"],
            "layers": depths,
            "prompts": prompts_digest(read.positives, read.negatives),
        }
        tensors = cache.made_once("states", facts, make, TENSORS)
        return tensors["positive"], tensors["negative"]

    def of_pair(behaviour: Behaviour, side: Side) -> ModelStates:
        sides = states_of(behaviour, side, pair.identities[side], lambda: pair.loaded(side))
        own = {layer: norms[f"{side}.{layer}"] for layer in layers.of(side).layers}
        parts: tuple[SourcePart, ...] = ()
        if side == "source" and pair.stack is not None:
            facts = {"units": pair.identities["source"]}
            parts = pair.stack.columns(cache.made_once("states", facts, pair.stack.units, JSON))
        return ModelStates(*sides, layers.of(side), pair.names[side], own, parts)

    def of_untrained(behaviour: Behaviour, source: UntrainedSource) -> ModelStates:
        sides = states_of(behaviour, "source", source.identity, lambda: source.model)
        recorded = layers.of("source")
        # it runs over no corpus: the unit of its strengths is the norm of these states
        own = {n: float(recorded.part(sides[0], n).norm(dim=1).median()) for n in recorded.layers}
        return ModelStates(*sides, recorded, source.name, own)

    by_contrast: dict[str, ContrastStates] = {}
    total = len(contrasts) * (len(SIDES) + len(untrained))
    with monitor.stage("extract vectors"), monitor.progress("contrastive prompts", total) as advance:
        for name, behaviour in sorted(contrasts.items()):
            source, target = (of_pair(behaviour, side) for side in SIDES)
            advance(len(SIDES))
            nulls = []
            for each in untrained:
                nulls.append(of_untrained(behaviour, each))
                advance(1)
            digest = prompts_digest(behaviour.positives, behaviour.negatives)
            by_contrast[name] = ContrastStates(name, source, target, tuple(nulls), digest)
    return Vectors(layers, by_contrast)
