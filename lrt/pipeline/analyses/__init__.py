"""Optional analyses of the maps: layers, ranks, fidelity, features, price, and each vector's forecast."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrt.config import Analysis as Settings
from lrt.config import Batches, ConfigError
from lrt.mapping import layer_concat_bytes
from lrt.pipeline.analyses.analysis import Analysis, run_analyses
from lrt.pipeline.analyses.autoencoders import Autoencoders
from lrt.pipeline.analyses.features import Features
from lrt.pipeline.analyses.fidelity import Fidelity
from lrt.pipeline.analyses.forecast import Forecasts
from lrt.pipeline.analyses.given_away import GivenAway
from lrt.pipeline.analyses.layers import AllTogether, RankCurve, RecordedAtlas, SourcesTogether
from lrt.pipeline.analyses.price import Price
from lrt.pipeline.choices import Choices
from lrt.pipeline.fit_data import RowSource
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.maps import MapFit, Maps
from lrt.pipeline.pair import ModelPair, UntrainedSource
from lrt.pipeline.states import RecordedStates
from lrt.pipeline.vectors import Vectors, prompts_digests

__all__ = ["Analyses", "Analysis", "Forecasts", "plan_analyses"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Analyses:
    """The analyses that a config asks for, the forecasts, and what the corpus gives away of each vector."""

    wanted: tuple[Analysis, ...]
    forecasts: Forecasts
    given_away: GivenAway
    maps: Maps
    rows: RowSource

    def check(self, limit: int, untrained: bool, batches: Batches) -> None:
        """Raises UserError for settings that cannot be run, and for a need of more than `limit` bytes.

        Memory is needed by the maps' moments, by what is made of them, and by an analysis.
        """
        count, layers = len(self.maps.all), self.maps.whole.layers
        held = moments_bytes(self.rows, layers, count, untrained)
        source, target = layers
        maps = (
            f"{count} maps of {len(source.layers)} source layers of {source.width} "
            f"to {len(target.layers)} target layers of {target.width}"
        )
        fewer = "name fewer layers (layers.source, layers.target), "
        for what, beside, smaller in (
            ("", 0, "lower evaluation.folds or evaluation.shuffled_draws"),
            (
                " with windows of their rows",
                window_bytes(self.rows, layers, batches),
                "lower batches.window_rows",
            ),
        ):
            if held + beside > limit:
                raise ConfigError(
                    f"the moments of {maps}{what} need {(held + beside) / 1e9:.3g} GB of memory and "
                    f"analysis.memory_gb={limit / 1e9:.3g}: {fewer}{smaller}, or raise analysis.memory_gb"
                )
        for analysis in self.wanted:
            analysis.check()
            if (need := held + analysis.memory) > limit:
                raise ConfigError(
                    f"the analysis {analysis.name} needs {need / 1e9:.3g} GB of memory ({held / 1e9:.3g} for "
                    f"the moments of {maps}) and analysis.memory_gb={limit / 1e9:.3g}: "
                    f"{analysis.smaller}, or raise analysis.memory_gb"
                )

    def results(self) -> dict[str, Any]:
        """Results by name; under `notes`, by name, why one could not be made."""
        return run_analyses(self.wanted, self.rows.cache)


def moments_bytes(rows: RowSource, layers: LayerPair, maps: int, untrained: bool) -> int:
    """Bytes of the maps' own moments: folds and their sum, held-out rows, nulls, single tokens, and a part of
    the corpus beside the rest."""
    settings = rows.settings
    return maps * layer_concat_bytes(
        *layers, settings.folds + 1 + 2 + settings.shuffled_draws + 2 + 2 + 2 * untrained
    )


def window_bytes(rows: RowSource, layers: LayerPair, batches: Batches) -> int:
    """Bytes of the rows that the null of shuffled pairs reads at once, in two streams."""
    recording = rows.states.settings
    copied = rows.settings.pool > 1 or recording.states == "int8"
    if not (recording.keeps_states and copied):  # else they stay where they lie
        return 0
    window = min(batches.window_rows, rows.text.settings.tokens.train)
    return 2 * (2 + batches.workers) * 4 * window * (layers.source.total + layers.target.total)


def plan_analyses(
    settings: Settings,
    maps: Maps,
    rows: RowSource,
    recorded: LayerPair,
    vectors: Vectors,
    choices: Choices,
    pair: ModelPair,
    untrained: Sequence[UntrainedSource] = (),
) -> Analyses:
    """The analyses that the settings ask for and that the run has what they need for; nothing is made yet."""
    whole: MapFit = maps.whole
    suite = whole.behaviours
    wanted: list[Analysis] = []
    if settings.rank_curve:
        wanted.append(RankCurve(whole.data))
    if settings.atlas:
        prompts = prompts_digests(whole.contrasts)
        wanted.append(RecordedAtlas(rows, recorded, vectors.states, prompts))
    if settings.many_to_one and len(recorded.source.layers) > 1:
        wanted.append(SourcesTogether(rows, recorded))
        if len(recorded.target.layers) > 1:
            wanted.append(AllTogether(rows, recorded))
    if isinstance(rows.states, RecordedStates):
        if settings.fidelity_tokens and (pair.aligned or "source" not in pair.steered):
            log.info("no fidelity: it needs one source model, and the target's tokens as the source's")
        elif settings.fidelity_tokens:
            seed = whole.settings.seed
            wanted.append(Fidelity(whole, rows, recorded, pair, rows.states, settings, seed))
        if settings.sae.wanted:
            autoencoders = Autoencoders(settings.sae, whole.layers, rows, pair, whole.settings, whole.output)
            steered = [b for b in suite if b.name in settings.sae.behaviours]
            wanted.append(Features(autoencoders, whole.layers, steered, vectors, choices))
    if settings.price.counts:
        every = {behaviour.name for behaviour in suite}
        measured = set(choices.settings.behaviours) or every
        names = measured & (set(settings.price.behaviours) or measured)
        priced = [behaviour for behaviour in suite if behaviour.name in names]
        if priced:
            wanted.append(Price(settings.price, priced, maps, choices, rows.cache))
        else:
            log.warning(
                "nothing is priced: analysis.price.behaviours=%s are not among those evaluated (%s)",
                list(settings.price.behaviours),
                ", ".join(sorted(measured)),
            )
    forecasts = Forecasts(whole, rows, settings)
    return Analyses(tuple(wanted), forecasts, GivenAway(forecasts, untrained), maps, rows)
