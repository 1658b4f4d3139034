"""Stage 4: where and how strongly each model's own vector steers it, on development items."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lrt.config import Evaluation
from lrt.evaluation import (
    Behaviour,
    Chosen,
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
from lrt.mapping import LayerConcat, atlas, choose_layers, of_layers
from lrt.models import sampling_facts
from lrt.models.sides import Side
from lrt.pipeline.fit_data import FitData, RowSource
from lrt.pipeline.layers import LayerPair, LayerPlan
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.pair import ModelPair
from lrt.pipeline.states import States
from lrt.pipeline.study_format import study_once
from lrt.pipeline.vectors import Vectors
from lrt.storage.cache import JSON, Cache
from lrt.storage.fingerprint import fingerprint, tensor_digest

log = logging.getLogger(__name__)

VERSION = 2  # of what a choice holds: every layer and strength tried since 2


class Choices:
    """Layer and strength for every behaviour, chosen when first needed and cached.

    states  Whose median norms are the unit of strength.
    """

    def __init__(
        self,
        pair: ModelPair,
        vectors: Vectors,
        candidates: LayerPair,
        states: States,
        settings: Evaluation,
        cache: Cache,
        monitor: Monitor,
    ) -> None:
        self.pair, self.vectors, self.candidates, self.states = pair, vectors, candidates, states
        self.settings, self.cache, self.monitor = settings, cache, monitor
        self._chosen: dict[tuple[str, Side, int | None], Chosen] = {}

    def steerable(self, side: Side, layer: int) -> SteerableModel:
        """A model at one of its layers, and the length of a vector of strength 1 there."""
        return SteerableModel(self.pair.model(side), layer, self._length(side, layer))

    def of(self, behaviour: Behaviour, side: Side = "target", at: int | None = None) -> Chosen:
        """Layer and strength at which a model's own vector steers best; the strength alone where the layer is
        given as `at`."""
        behaviour, key = self.pair.read_by(side, behaviour), (behaviour.name, side, at)
        if key not in self._chosen:
            study = study_once(
                self.cache,
                "choices",
                self.facts(behaviour, side, at),
                lambda partial: self._choose(behaviour, side, at, partial),
                f"{behaviour.name}-{side}",
                behaviour,
            )
            model = self.steerable(side, study.choice.layer)
            self._chosen[key] = Chosen(study.choice, model, study.measurements, study.damages)
        return self._chosen[key]

    def facts(self, behaviour: Behaviour, side: Side, at: int | None = None) -> dict[str, Any]:
        """What determines the choice."""
        grid = self.settings.grid.of(behaviour)
        return {
            "version": VERSION,
            "model": self.pair.identities[side],
            "tokenizer": self.pair.identities["tokenizer"],
            "norms": {layer: self._length(side, layer) for layer in self._layers(side, at)},
            "behaviour": fingerprint(behaviour.facts),
            "grid": {"strengths": grid.strengths, "damage_limit": grid.damage_limit},
            **sampling_facts(self.settings.temperature),
            # of the generation config, which is no part of a model's identity
            "ends": end_tokens(self.pair.model(side)),
        }

    def scores(
        self,
        behaviour: Behaviour,
        directions: Mapping[str, Sequence[Tensor]],
        split: ItemSplit,
        what: str,
        at: int | None = None,
    ) -> dict[str, list[Array]]:
        """Scores of a split's items under directions at the layer (or `at`) and strength chosen for the
        behaviour, as `lrt.evaluation.scores_along` gives them; cached."""
        chosen = self.of(behaviour, at=at)
        facts = {
            "chosen": self.facts(behaviour, "target", at),
            "layer": chosen.choice.layer,
            "strength": chosen.choice.strength,
            "split": split,
            "directions": {name: list(map(tensor_digest, draws)) for name, draws in directions.items()},
        }

        def make(partial: Path) -> dict[str, list[list[float]]]:
            with (
                Journal(partial) as journal,
                self.monitor.progress(what, rows_along(behaviour, directions, split)) as advance,
            ):
                scores = scores_along(
                    chosen,
                    behaviour,
                    directions,
                    split,
                    temperature=self.settings.temperature,
                    max_rows=self.settings.max_rows,
                    progress=advance,
                    journal=journal,
                )
            return {name: [draw.tolist() for draw in draws] for name, draws in scores.items()}

        cached = self.cache.resumed("scores", facts, make, JSON, behaviour.name)
        return {name: [np.array(draw) for draw in draws] for name, draws in cached.items()}

    def _length(self, side: Side, layer: int) -> float:
        absolute = self.settings.grid.unit == "absolute"
        return 1.0 if absolute else self.states.median_norms[f"{side}.{layer}"]

    def _layers(self, side: Side, at: int | None) -> tuple[int, ...]:
        return self.candidates.of(side).layers if at is None else (at,)

    def _choose(self, behaviour: Behaviour, side: Side, at: int | None, partial: Path) -> Study:
        layers = self._layers(side, at)
        states = self.vectors.states[behaviour.contrast]
        own = states.target_vector if side == "target" else states.source_vector
        grid, tried = self.settings.grid.of(behaviour), behaviour
        if side == "source":  # whose own curve is an illustration: its layer is chosen more cheaply
            grid = replace(grid, strengths=tuple(s for s in grid.strengths if s >= 0))
            tried = replace(behaviour, damage_texts=behaviour.damage_texts[:16])
        rows = len(behaviour.development) * len(grid.strengths) * len(layers)
        with (
            Journal(partial) as journal,
            self.monitor.stage("choose layer and strength"),
            self.monitor.progress(f"{behaviour.name}, the {side}'s own vector", rows) as advance,
        ):
            recorded = self.vectors.layers.of(side)
            made = choose_layer(
                tried,
                [(self.steerable(side, layer), recorded.part(own, layer)) for layer in layers],
                grid,
                temperature=self.settings.temperature,
                max_rows=self.settings.max_rows,
                progress=advance,
                journal=journal,
            )
        return Study(behaviour.name, made.choice, made.measurements, made.damages, "development")


def choose_map_layers(
    plan: LayerPlan,
    evaluated: Sequence[Behaviour],
    parts_for: Mapping[str, tuple[str, ...]],
    choices: Choices,
    rows: RowSource,
) -> LayerPair:
    """The layers of the map: those that the config names, or those that the behaviours need that are
    evaluated.

    Of the target, for each behaviour, the candidate at which its native vector does most on development
    items. Of the source, the candidate with the least error along the vector to that layer, on validation
    documents, among those at which the source's own vector steers the source. Where it steers at none, among
    all, and the log says so. The layers of all behaviours are concatenated. A side that the config names
    stays as it is.

    parts_for  By behaviour, the parts of the corpus that its map is fitted on.
    """
    if not plan.automatic:
        return plan.candidates
    source, target = plan.candidates
    chosen_source, chosen_target = set(source.layers), set(target.layers)
    if "target" in plan.automatic:
        chosen_target = {choices.of(behaviour).choice.layer for behaviour in evaluated}
    if "source" in plan.automatic:
        chosen_source = set()
        data: FitData | None = None  # of one set of parts at a time
        for behaviour in sorted(evaluated, key=lambda each: parts_for[each.name]):
            if data is None or data.parts != parts_for[behaviour.name]:
                data = rows.of(plan.recorded, parts_for[behaviour.name], folds=1)
            tried = choices.of(behaviour, "source").choice.by_layer
            steering = tuple(layer for layer, _, steers in tried if steers)
            if not steering:
                log.warning("%s: the source's own vector steers it at no candidate layer", behaviour.name)
            among, to = steering or source.layers, choices.of(behaviour).choice.layer
            # layers chosen on test documents could not be tested on them
            train, validation = (
                of_layers(moments, data.layers, among, (to,))
                for moments in (data.train_moments, data.moments["validation"])
            )
            layers = LayerPair(LayerConcat(among, source.width), LayerConcat((to,), target.width))
            states = choices.vectors.at(layers)[behaviour.contrast]
            cells = atlas(
                train,
                validation,
                validation,
                *layers,
                {behaviour.contrast: (states.source_vector, states.target_vector)},
                bias=rows.settings.bias,
                device=data.device,
            )
            chosen_source.add(choose_layers(cells, behaviour.contrast, among, to))
    layers = LayerPair(
        LayerConcat(tuple(sorted(chosen_source)), source.width),
        LayerConcat(tuple(sorted(chosen_target)), target.width),
    )
    log.info("layers chosen: source %s, target %s", list(layers.source.layers), list(layers.target.layers))
    return layers
