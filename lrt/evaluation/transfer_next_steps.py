"""What to try next where a transferred vector does not steer, and the native one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.choice import StrengthGrid, Trial
from lrt.evaluation.next_steps import NextStep
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.statistics import mean_estimate
from lrt.evaluation.study import Study

LARGE_ERROR = 0.5  # FVU along a vector from which on the map loses most of what varies along it


@dataclass(frozen=True)
class TransferFacts:
    """Everything known of a transferred vector that does not steer where the native one does.

    forecast         Of the map along this vector; figures may be missing.
    least_signal     Signal to noise below which a forecast warns.
    most_residual    Residual on the contrastive prompts above which a forecast warns.
    map              `name`, `fvu`, and `error_along` the native vector; both None where unknown.
    source           `layer` of the source, and whether its own vector `steers` it there; None for a source
                     that cannot be steered.
    curve            The transferred vector on the evaluated items, by `transferred_trials`.
    whole_corpus_ci  Interval of the transfer ratio with the map of the whole corpus.
    """

    behaviour: Behaviour
    grid: StrengthGrid
    forecast: Mapping[str, Any]
    least_signal: float
    most_residual: float
    map: Mapping[str, Any]
    source: Mapping[str, Any] | None
    curve: Sequence[Trial]
    whole_corpus_ci: Sequence[float] | None = None

    def steps(self) -> list[NextStep]:
        """The suggestions of all rules that apply."""
        rules = (
            self._source_unsteered,
            self._prompts_uncovered,
            self._noisy,
            self._error_along,
            self._whole_corpus,
            self._other_strength,
        )
        return [step for rule in rules if (step := rule()) is not None]

    def _source_unsteered(self) -> NextStep | None:
        if self.source is None or self.source["steers"]:
            return None
        return NextStep(
            "the source is not steered",
            f"the source's own vector does not steer the source at layer {self.source['layer']}",
            "other source layers: layers.source=auto recording.source=all",
        )

    def _prompts_uncovered(self) -> NextStep | None:
        residual = self.forecast.get("residual_on_prompts")
        if residual is None or residual <= self.most_residual:
            return None
        return NextStep(
            "text of another kind",
            f"the map leaves {residual:.0%} of the variance among the contrastive prompts unexplained, and "
            f"{self.most_residual:.0%} is the limit",
            "a corpus part of text like the prompts, for this behaviour (corpus.sources.NAME.fit_map_for)",
        )

    def _noisy(self) -> NextStep | None:
        ratio = self.forecast.get("signal_to_noise")
        if ratio is None or ratio >= self.least_signal:
            return None
        return NextStep(
            "too little text",
            f"the transferred vector is {ratio:.1f} standard errors long over documents, and "
            f"{self.least_signal:g} is the limit",
            "more text: corpus.tokens.train, or more of it like the prompts",
        )

    def _error_along(self) -> NextStep | None:
        along = self.map["error_along"]
        if along is None or along < LARGE_ERROR:
            return None
        return NextStep(
            "large error along the vector",
            f"the map's FVU along the native vector is {along:.2f} on test documents (its FVU is "
            f"{self.map['fvu']:.2f})",
            "another pair of layers: analysis.atlas=true shows this error at every recorded pair",
        )

    def _whole_corpus(self) -> NextStep | None:
        if self.whole_corpus_ci is None or self.whole_corpus_ci[0] <= 0:
            return None
        low, high = self.whole_corpus_ci
        return NextStep(
            "another map transfers it",
            f"with the map of the whole corpus the transfer ratio is {low:.0%} to {high:.0%}",
            f"exclude {self.behaviour.name} from corpus.sources.NAME.fit_map_for",
        )

    def _other_strength(self) -> NextStep | None:
        undamaged = [trial for trial in self.curve if trial.damage <= self.grid.damage_limit]
        moving = [trial for trial in undamaged if trial.moves(self.behaviour.direction)]
        if not moving:
            return None
        least = min(moving, key=lambda trial: trial.strength)
        return NextStep(
            "another strength",
            f"at strength {least.strength:g} the transferred vector changes the score by {least.shown}, with "
            f"a damage of {least.damage:.1%}",
            "the strength was chosen for the native vector: steer with this one, confirmed on other items",
        )


def transferred_trials(study: Study, seed: int = 0) -> list[Trial]:
    """The transferred vector's change on the evaluated items at every positive strength."""
    record = ScoreTable(study.measurements, study.split)
    none = record.column("none", 0.0)
    trials = []
    for damage in sorted(study.damages, key=lambda each: each.strength):
        if (damage.condition, damage.split, damage.draw) != ("transferred", study.split, 0):
            continue
        scores = record.column("transferred", damage.strength)
        if damage.strength > 0 and scores is not None and none is not None:
            moved = mean_estimate(scores - none, seed, record.item_keys)
            trials.append(
                Trial(
                    study.choice.layer, damage.strength, moved.value, moved.low, moved.high, damage.relative
                )
            )
    return trials
