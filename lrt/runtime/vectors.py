"""The second stage: steering vectors of both models, and where and how strongly each steers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from lrt.activations.manifest import Side
from lrt.evaluation import (
    Behaviour,
    Chosen,
    ContrastStates,
    SteerableModel,
    Study,
    choose_layer,
    end_tokens,
    rows_along,
    scores_along,
)
from lrt.evaluation.behaviours import ItemSplit
from lrt.evaluation.journal import Journal
from lrt.evaluation.statistics import Array
from lrt.evaluation.study_io import kept_study
from lrt.mapping import LayerConcat
from lrt.models import (
    LanguageModel,
    ModelSpec,
    identity,
    load,
)
from lrt.runtime.caches import cache_read
from lrt.runtime.recorded import Recorded
from lrt.steering import last_token_states, prompts_digest
from lrt.storage.fingerprint import fingerprint, tensor_digest
from lrt.storage.sealed import load_tensors, save_tensors


class Vectors(Recorded):
    """Adds to the recorded states the steering vectors of both models."""

    # -- steering vectors ----------------------------------------------------------------------

    @cached_property
    def contrasts(self) -> dict[str, Behaviour]:
        """One behaviour for each contrastive set, by the contrast's name."""
        return {behaviour.contrast: behaviour for behaviour in reversed(self.suite)}

    @cached_property
    def states(self) -> dict[str, ContrastStates]:
        """Last-token states of every contrastive set at the map's layers."""
        return self.states_at(self.stacks)

    def states_at(self, stacks: tuple[LayerConcat, LayerConcat]) -> dict[str, ContrastStates]:
        """The same at some of the recorded layers."""
        columns = [
            recorded.columns_of(stack.layers)
            for recorded, stack in zip(self.recorded_stacks, stacks, strict=True)
        ]
        return {name: states.at(*columns) for name, states in self.recorded_states.items()}

    @cached_property
    def recorded_states(self) -> dict[str, ContrastStates]:
        """Last-token states of every contrastive set at all recorded layers, in both models and the
        untrained source."""
        roles = ["source", "target"] + ["untrained"] * self.config.evaluation.untrained_source
        found = {}
        with (
            self.session.stage("steering vectors"),
            self.session.progress("steering vectors", len(self.contrasts) * len(roles)) as advance,
        ):
            for name, behaviour in sorted(self.contrasts.items()):
                states = []
                for role in roles:
                    states.append(self._states(behaviour, role))
                    advance(1)
                found[name] = ContrastStates(*states)
        return found

    def _states(self, behaviour: Behaviour, role: str) -> tuple[Tensor, Tensor]:
        layers = self.recorded_stacks[role == "target"].layers
        name = fingerprint(
            {
                "model": self.untrained_identity if role == "untrained" else self.identities[role],
                "tokenizer": self.identities["tokenizer"],
                "layers": layers,
                "prompts": prompts_digest(behaviour.positives, behaviour.negatives),
            }
        )
        file = self.artifacts / "states" / f"{name}.safetensors"
        if not file.is_file():
            model = {"source": lambda: self.source, "target": lambda: self.target}.get(
                role, lambda: self.untrained
            )()
            found = {
                "positive": last_token_states(model, behaviour.positives, layers),
                "negative": last_token_states(model, behaviour.negatives, layers),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(file, found)
        with cache_read(file):
            tensors = load_tensors(file)
            return tensors["positive"], tensors["negative"]

    @cached_property
    def untrained_spec(self) -> ModelSpec:
        """The source's architecture with random weights: the untrained control."""
        spec = self.config.pair.source
        return replace(spec, weights="random", seed=self.config.seed, name="")

    @cached_property
    def untrained_identity(self) -> dict[str, Any]:
        """What determines the untrained source."""
        return identity(self.untrained_spec, self.kept_models)

    @cached_property
    def untrained(self) -> LanguageModel:
        """The untrained source."""
        return load(self.untrained_spec, self.kept_models)

    def steerable(self, side: Side, layer: int) -> SteerableModel:
        """A model at one of its layers, and how long a vector of strength 1 is there."""
        model = self.target if side == "target" else self.source
        return SteerableModel(model, layer, self._length(side, layer))

    def _length(self, side: Side, layer: int) -> float:
        absolute = self.config.evaluation.grid.unit == "absolute"
        return 1.0 if absolute else self.median_norms[f"{side}.{layer}"]

    def chosen(self, behaviour: Behaviour, side: Side = "target", at: int | None = None) -> Chosen:
        """Layer and strength for a behaviour, by what a model's own vector does on development items; made
        once and found again, whatever the map. The strength alone where the layer is given as `at`."""
        key = behaviour.name, side, at
        if key not in self._chosen:
            name = fingerprint(self.chosen_facts(behaviour, side, at))
            file = self.artifacts / "choices" / f"{behaviour.name}-{side}-{name}.jsonl"
            found = kept_study(file, partial(self._choose, behaviour, side, at))
            model = self.steerable(side, found.choice.layer)
            self._chosen[key] = Chosen(found.choice, model, found.measurements, found.damages)
        return self._chosen[key]

    def chosen_facts(self, behaviour: Behaviour, side: Side, at: int | None = None) -> dict[str, Any]:
        """What determines the choice."""
        evaluation = self.config.evaluation
        grid = evaluation.grid.of(behaviour)
        model = self.target if side == "target" else self.source
        return {
            "version": 2 if behaviour.reads_logits else 1,  # off float32 logits
            "model": self.identities[side],
            "tokenizer": self.identities["tokenizer"],
            "norms": {layer: self._length(side, layer) for layer in self._layers(side, at)},
            "behaviour": fingerprint(replace(behaviour, extra_scorers=()).to_data()),
            "grid": {"strengths": grid.strengths, "damage_limit": grid.damage_limit},
            "temperature": evaluation.temperature,
            # of the generation config, which is no part of a model's identity
            "ends": end_tokens(model),
        }

    def _layers(self, side: Side, at: int | None) -> tuple[int, ...]:
        return self.candidates[side == "target"].layers if at is None else (at,)

    def _choose(self, behaviour: Behaviour, side: Side, at: int | None, journal: Journal) -> Study:
        layers = self._layers(side, at)
        recorded = self.recorded_stacks[side == "target"]
        states = self.recorded_states[behaviour.contrast]
        own = states.target_vector if side == "target" else states.source_vector
        evaluation = self.config.evaluation
        grid, tried = evaluation.grid.of(behaviour), behaviour
        if side == "source":  # whose own curve is an illustration: its block is found more cheaply
            grid = replace(grid, strengths=tuple(s for s in grid.strengths if s >= 0))
            tried = replace(behaviour, damage_texts=behaviour.damage_texts[:16])
        rows = len(behaviour.development) * len(grid.strengths) * len(layers)
        with self.session.progress(f"{behaviour.name}, the {side}'s own vector", rows) as advance:
            made = choose_layer(
                tried,
                [(self.steerable(side, layer), recorded.part(own, layer)) for layer in layers],
                grid,
                temperature=evaluation.temperature,
                max_rows=evaluation.max_rows,
                progress=advance,
                journal=journal,
            )
        return Study(behaviour.name, made.choice, made.measurements, made.damages, "development")

    def kept_scores(
        self,
        behaviour: Behaviour,
        directions: Mapping[str, Sequence[Tensor]],
        split: ItemSplit,
        doing: str,
        at: int | None = None,
    ) -> dict[str, list[Array]]:
        """What a split's items score under directions at the layer (or `at`) and strength chosen for the
        behaviour, as `lrt.evaluation.scores_along` gives it. Stopped, it goes on where it was; done, it is
        found again."""
        chosen, evaluation = self.chosen(behaviour, at=at), self.config.evaluation
        name = fingerprint(
            {
                "version": 1,
                "chosen": self.chosen_facts(behaviour, "target", at),
                "layer": chosen.choice.layer,
                "strength": chosen.choice.strength,
                "split": split,
                "directions": {name: list(map(tensor_digest, draws)) for name, draws in directions.items()},
            }
        )
        with (
            Journal(self.artifacts / "along" / f"{behaviour.name}-{name}.journal") as journal,
            self.session.progress(doing, rows_along(behaviour, directions, split)) as advance,
        ):
            return scores_along(
                chosen,
                behaviour,
                directions,
                split,
                temperature=evaluation.temperature,
                max_rows=evaluation.max_rows,
                progress=advance,
                journal=journal,
            )

    @cached_property
    def _chosen(self) -> dict[tuple[str, Side, int | None], Chosen]:
        return {}
