"""Stage 6: native and transferred vectors, nulls and baselines, measured at the chosen layer and strength."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lrt.config import Evaluation
from lrt.evaluation import (
    NULLS,
    Behaviour,
    SourceCurve,
    Study,
    TransferMaps,
    directions,
    end_tokens,
    other_contrast,
    study,
    study_rows,
)
from lrt.evaluation.journal import Journal
from lrt.evaluation.rescoring import (
    rescore,
    rescored_rows,
    summarise_rescored,
    text_id,
)
from lrt.evaluation.scorers import scorer_facts
from lrt.mapping import cosine
from lrt.models import sampling_facts
from lrt.pipeline.analyses import Forecasts
from lrt.pipeline.choices import Choices
from lrt.pipeline.maps import MapFit, Maps
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.pair import UntrainedSource
from lrt.pipeline.study_format import study_once
from lrt.pipeline.vectors import contrasts_of
from lrt.steering import prompts_digest
from lrt.storage.cache import JSON, Cache
from lrt.storage.fingerprint import fingerprint

log = logging.getLogger(__name__)

VERSION = 2  # of what a study holds: curves of all nulls since 2

NOT_MEASURED = ("during_training", "max_rows", "behaviours", "grid", "map", "side_effects")
"""Settings of the evaluation that leave a behaviour's measurements as they are, or enter them otherwise."""


@dataclass(frozen=True)
class Studied:
    """The raw measurements of one behaviour, its map and its forecast."""

    behaviour: Behaviour
    study: Study
    fit: MapFit
    forecast: Mapping[str, Any]


def contamination_of(fit: MapFit, behaviour: Behaviour) -> str:
    """What is to be said of text that a behaviour shares with what its map was fitted on; empty if none."""
    seen = fit.documents_seen[behaviour.name]
    if seen is None:
        return "whether the map was fitted on its prompts or items is not known: the map is of another corpus"
    if seen:
        return (
            f"contaminated: the map was fitted on {seen} documents that share text with its prompts or items"
        )
    return ""


class Studies:
    """Measures the behaviours of a run; cached by behaviour, and by batch while under way."""

    def __init__(
        self,
        maps: Maps,
        choices: Choices,
        forecasts: Forecasts,
        untrained: Sequence[UntrainedSource],
        settings: Evaluation,
        seed: int,
        cache: Cache,
        monitor: Monitor,
    ) -> None:
        self.maps, self.choices, self.forecasts, self.untrained = maps, choices, forecasts, untrained
        self.settings, self.seed, self.cache, self.monitor = settings, seed, cache, monitor
        self._transfer_maps: dict[str, TransferMaps] = {}

    def measure(self, behaviours: Sequence[Behaviour]) -> list[Studied]:
        """The raw record of every behaviour, in their order."""
        studied = []
        with self.monitor.stage("evaluate"):
            for behaviour in behaviours:
                fit, layer = self.maps.of(behaviour), self.choices.of(behaviour).choice.layer
                if contamination := contamination_of(fit, behaviour):
                    log.warning("%s: %s", behaviour.name, contamination)
                forecast = self.forecasts.of(fit, behaviour, layer)
                if forecast["warning"]:
                    log.warning("%s: %s", behaviour.name, forecast["warning"])
                make = partial(self._study, behaviour)
                made = study_once(
                    self.cache,
                    "measurements",
                    self._facts(behaviour),
                    make,
                    behaviour.name,
                    behaviour,
                    self.choices.pair.read_by("source", behaviour),
                )
                studied.append(Studied(behaviour, made, fit, forecast))
        return studied

    def rescored(self, behaviour: Behaviour, measured: Study) -> list[dict[str, Any]]:
        """Summaries of the same generated texts by the behaviour's further scorers."""
        summaries = []
        for scorer in behaviour.extra_scorers:
            name = type(scorer).__name__.lower()
            facts = {"measurements": self._facts(behaviour), "scorer": scorer_facts(scorer)}
            file = self.cache.path("scores", facts, ".json", f"{behaviour.name}-{name}")
            texts = len({text_id(row) for row in rescored_rows(measured)})
            with self.monitor.progress(f"{behaviour.name}, by {name}", texts) as advance:
                scores = rescore(scorer, behaviour, measured, file, advance)
            grid = self.settings.grid.of(behaviour)
            summaries.append(summarise_rescored(measured, name, scores, grid, self.seed))
        return summaries

    @cached_property
    def fingerprint(self) -> str:
        """Of all measurements of these maps and settings."""
        return fingerprint(self.shared_facts)

    @cached_property
    def shared_facts(self) -> dict[str, Any]:
        """What determines the measurements of every behaviour, and the vectors of their conditions."""
        evaluation = {k: v for k, v in asdict(self.settings).items() if k not in NOT_MEASURED}
        grid = self.settings.grid
        pair = self.choices.pair
        return {
            "version": VERSION,
            # before, untrained sources beyond the first had no curve; a study of one is as it was
            **({"curves_of_untrained": "all"} if self.settings.untrained_draws > 1 else {}),
            "maps": {fit.name: fit.fingerprint for fit in self.maps.all},
            "evaluation": evaluation
            | {"damage_limit": grid.damage_limit, "unit": grid.unit}
            | sampling_facts(self.settings.temperature),
            "seed": self.seed,
            # of the generation config, which is no part of a model's identity
            "ends": [end_tokens(pair.model(side)) for side in pair.steered],
        }

    def _facts(self, behaviour: Behaviour) -> dict[str, Any]:
        """What determines the measurements of one behaviour."""
        other = self.other_of(behaviour)
        rival = contrasts_of(self.maps.whole.behaviours)[other] if other else None
        return {
            **self.shared_facts,
            "behaviour": behaviour.facts,
            "other": prompts_digest(rival.positives, rival.negatives) if rival else None,
            "strengths": self.settings.grid.of(behaviour).strengths,
        }

    def native_cosines(self, behaviour: Behaviour) -> dict[str, list[float]]:
        """By null, the cosine of each draw's direction with the native vector, at the layer; cached."""

        def make() -> dict[str, list[float]]:
            units = self.directions_of(behaviour)
            (native,) = units["native"]
            return {name: [cosine(native, unit) for unit in units[name]] for name in NULLS if name in units}

        facts = {"analysis": "native_cosines", "measurements": self._facts(behaviour)}
        cosines: dict[str, list[float]] = self.cache.made_once(
            "analysis", facts, make, JSON, f"{behaviour.name}-null-cosines"
        )
        return cosines

    def cosine_of_natives(self, behaviour: Behaviour, other: str) -> float:
        """Cosine of a behaviour's native vector with that of another contrast, at the behaviour's layer."""
        states, layer = self.maps.whole.states, self.choices.of(behaviour).choice.layer
        own, theirs = (
            states[name].target.layers.part(states[name].target_vector, layer)
            for name in (behaviour.contrast, other)
        )
        return cosine(own, theirs)

    def other_of(self, behaviour: Behaviour) -> str | None:
        """The contrast of the suite whose transferred vector is the behaviour's null `other`."""
        return other_contrast(behaviour.contrast, contrasts_of(self.maps.whole.behaviours))

    def _maps_of(self, fit: MapFit) -> TransferMaps:
        if fit.name not in self._transfer_maps:
            self._transfer_maps[fit.name] = fit.transfer_maps(self.settings, self.seed, self.untrained)
        return self._transfer_maps[fit.name]

    def directions_of(self, behaviour: Behaviour) -> dict[str, Tensor]:
        """The unit directions that it is steered along, by condition, at its layer."""
        settings, fit, whole = self.settings, self.maps.of(behaviour), self.maps.whole
        return directions(
            behaviour.contrast,
            whole.states,
            self._maps_of(fit),
            whole=whole.mapping if fit is not whole else None,
            other=self.other_of(behaviour),
            layer=self.choices.of(behaviour).choice.layer,
            random_draws=settings.random_draws,
            seed=self.seed,
        )

    def _source_curve(self, behaviour: Behaviour) -> SourceCurve | None:
        """The source under its own vector; None for several models, which have no layer to steer."""
        pair, vectors = self.choices.pair, self.choices.vectors
        if "source" not in pair.steered:
            return None
        source = self.choices.of(behaviour, "source")
        vector = vectors.layers.source.part(
            vectors.states[behaviour.contrast].source_vector, source.choice.layer
        )
        items = pair.read_by("source", behaviour).items_of(self.settings.eval_split)
        return SourceCurve(source.model, vector, items)

    def _study(self, behaviour: Behaviour, unfinished: Path) -> Study:
        settings, units = self.settings, self.directions_of(behaviour)
        self.native_cosines(behaviour)  # cached while the nulls' maps are at hand
        chosen, source = self.choices.of(behaviour), self._source_curve(behaviour)
        grid, split = settings.grid.of(behaviour), settings.eval_split
        rows = study_rows(behaviour, chosen, units, grid, split, of_source=source is not None)
        with Journal(unfinished) as journal, self.monitor.progress(behaviour.name, rows) as advance:
            return study(
                behaviour,
                source,
                chosen,
                units,
                grid,
                split=split,
                temperature=settings.temperature,
                max_rows=settings.max_rows,
                progress=advance,
                journal=journal,
            )
