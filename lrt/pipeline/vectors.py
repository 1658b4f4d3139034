"""Stage 3: last-token states of the contrastive prompts in both models, and their steering vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lrt.evaluation import Behaviour, ContrastStates, ModelStates, other_contrast
from lrt.models import LanguageModel
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.pair import ModelPair, UntrainedSource
from lrt.steering import contrast_states, prompts_digest
from lrt.storage.cache import TENSORS, Cache


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
    """States of contrastive sets at the recorded layers, in both models and the untrained source.

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
    untrained: UntrainedSource | None,
    cache: Cache,
    monitor: Monitor,
) -> Vectors:
    """Runs the contrastive prompts through both models and the untrained source, if there is one; cached by
    model, layers and prompts.

    norms  Median residual norms by `source.LAYER` and `target.LAYER`.
    """
    roles: list[str] = ["source", "target", *(["untrained"] if untrained is not None else [])]

    def states_of(behaviour: Behaviour, role: str) -> ModelStates:
        recorded = layers.of("target" if role == "target" else "source")
        depths = recorded.layers
        read = pair.read_by("target" if role == "target" else "source", behaviour)

        def make() -> dict[str, Any]:
            model: LanguageModel
            if role == "untrained":
                assert untrained is not None
                model = untrained.model
            else:
                model = pair.target if role == "target" else pair.source
            positive, negative = contrast_states(model, read.positives, read.negatives, depths)
            # safetensors takes no tensors that share memory
            return {"positive": positive.clone(), "negative": negative.clone()}

        identity = pair.identities[role] if untrained is None or role != "untrained" else untrained.identity
        facts = {
            "model": identity,
            "tokenizer": pair.identities["tokenizer"],
            "layers": depths,
            "prompts": prompts_digest(read.positives, read.negatives),
        }
        tensors = cache.made_once("states", facts, make, TENSORS)
        positive, negative = tensors["positive"], tensors["negative"]
        if untrained is not None and role == "untrained":
            # it runs over no corpus: the unit of its strengths is the norm of these states
            own = {layer: float(recorded.part(positive, layer).norm(dim=1).median()) for layer in depths}
            return ModelStates(positive, negative, recorded, untrained.name, own)
        own = {layer: norms[f"{role}.{layer}"] for layer in depths}
        return ModelStates(positive, negative, recorded, pair.names[role], own)

    by_contrast: dict[str, ContrastStates] = {}
    with (
        monitor.stage("extract vectors"),
        monitor.progress("contrastive prompts", len(contrasts) * len(roles)) as advance,
    ):
        for name, behaviour in sorted(contrasts.items()):
            states = []
            for role in roles:
                states.append(states_of(behaviour, role))
                advance(1)
            digest = prompts_digest(behaviour.positives, behaviour.negatives)
            source, target, *null = states
            by_contrast[name] = ContrastStates(name, source, target, tuple(null), digest)
    return Vectors(layers, by_contrast)
