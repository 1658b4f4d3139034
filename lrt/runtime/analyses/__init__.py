"""What is told of the maps beside their use: layers, ranks, fidelity, features and the forecast."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lrt.mapping import stack_bytes
from lrt.runtime.analyses.analysis import Analysis, attempt
from lrt.runtime.analyses.features import Features
from lrt.runtime.analyses.fidelity import Fidelity
from lrt.runtime.analyses.forecast import Forecasts
from lrt.runtime.analyses.layers import Atlas, ManyToMany, ManyToOne, RankCurve
from lrt.runtime.map_fit import MapFit
from lrt.runtime.schema import ConfigError
from lrt.runtime.vectors import Vectors

__all__ = ["Analyses", "Forecasts"]

# what makes each of them smaller
THINNED_BY = {
    "rank_curve": "set analysis.rank_curve=false",
    "atlas": "record fewer blocks (recording.source, recording.target), set analysis.atlas=false, or take "
    "make atlas, which needs less",
    "many_to_one": "record fewer blocks (recording.source) or set analysis.many_to_one=false",
    "many_to_many": "record fewer blocks (recording.source) or set analysis.many_to_one=false",
    "fidelity": "record fewer blocks, or set analysis.stitching_depths=false, or leave orthogonal_penalty out of "
    "analysis.fidelity_kinds, or set analysis.fidelity_tokens=0",
    "sae": "take autoencoders of fewer features, or none (analysis.sae.features=0, analysis.sae.source=null "
    "and analysis.sae.target=null)",
}


class Analyses:
    """All that a run's config asks for, each made once and found again."""

    def __init__(self, run: Vectors, whole: MapFit, maps: int) -> None:
        self.run, self.whole, self.maps = run, whole, maps
        kinds = (RankCurve, Atlas, ManyToOne, ManyToMany, Fidelity, Features)
        self.all: tuple[Analysis, ...] = tuple(kind(run, whole) for kind in kinds)

    @cached_property
    def forecasts(self) -> Forecasts:
        """Of the carried vectors."""
        return Forecasts(self.run, self.whole)

    @property
    def asked(self) -> list[Analysis]:
        """Those that the config asks for."""
        return [analysis for analysis in self.all if analysis.asked]

    @property
    def held(self) -> int:
        """Bytes of the maps' own moments: folds and their sum, held-out rows, nulls and single tokens."""
        evaluation = self.run.config.evaluation
        sets = evaluation.folds + 1 + 2 + evaluation.shuffled_draws + 2 + evaluation.untrained_source
        return self.maps * stack_bytes(*self.whole.stacks, sets)

    @property
    def windows(self) -> int:
        """Bytes of the rows of the fit that the null of shuffled pairs reads at once, in two streams."""
        config = self.run.config
        copied = config.pool > 1 or config.recording.states == "int8"
        if not (self.run.keeps_states and copied):  # else they stay where they lie
            return 0
        source, target = self.whole.stacks
        rows = min(config.batches.window_rows, config.corpus.tokens.train)
        return 2 * (2 + config.batches.workers) * 4 * rows * (source.total + target.total)

    def check(self) -> None:
        """Raises ConfigError where the maps' moments, what is made of them or an analysis would not fit in
        memory, and ValueError for autoencoders that are not of the map's layers."""
        limit = int(self.run.config.analysis.memory_gb * 1e9)
        source, target = self.whole.stacks
        of = (
            f"{self.maps} maps of {len(source.layers)} source layers of {source.width} "
            f"to {len(target.layers)} target layers of {target.width}"
        )
        fewer = "name fewer layers (layers.source, layers.target), "
        for what, beside, thinned in (
            ("", 0, "lower evaluation.folds or evaluation.shuffled_draws"),
            (" with windows of their rows", self.windows, "lower batches.window_rows"),
            (
                " with forecasts that leave out a part of the corpus",
                self.forecasts.memory,
                "let fewer parts make up the corpus (corpus.sources)",
            ),
        ):
            if self.held + beside > limit:
                raise ConfigError(
                    f"the moments of {of}{what} need {(self.held + beside) / 1e9:.3g} GB of memory and "
                    f"analysis.memory_gb={limit / 1e9:.3g}: {fewer}{thinned}, or raise analysis.memory_gb"
                )
        for analysis in self.asked:
            analysis.check()
            need = self.held + analysis.memory
            if need > limit:
                source, target = self.run.recorded_stacks
                raise ConfigError(
                    f"{analysis.name} of {len(source.layers)} source layers of {source.width} and "
                    f"{len(target.layers)} target layers of {target.width} needs {need / 1e9:.3g} GB of "
                    f"memory ({self.held / 1e9:.3g} of it for the moments of {self.maps} maps) and "
                    f"analysis.memory_gb={limit / 1e9:.3g}: {THINNED_BY[analysis.name]}, or raise "
                    "analysis.memory_gb"
                )

    @cached_property
    def results(self) -> dict[str, Any]:
        """By name what was asked for; under `notes` by name what kept one from being made."""
        found: dict[str, Any] = {}
        notes: dict[str, str] = {}
        for analysis in self.asked:
            attempt(analysis, found, notes)
        return found | ({"notes": notes} if notes else {})
