"""What to try next where a native vector does not steer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.choice import StrengthGrid, Trial
from lrt.evaluation.next_steps import NextStep, PromptsRead, listed, spread, with_interval
from lrt.evaluation.scorers import LogitScorer

LEAST_SIGNAL_TO_NOISE = 2.0  # of a vector over its prompts: below, half of its length is sampling error
NEAR_THE_END = 0.05  # of the score's scale: an unsteered mean so near its end leaves no room
MOST_ITEMS = 10  # times the items there are: more are not suggested
LARGER = (1.5, 2.0)  # times the largest strength: those that are suggested
LAYERS_NAMED = 6


@dataclass(frozen=True)
class NativeTrials:
    """Everything known of a native vector that does not steer.

    trials       On development items, in the order tried.
    unsteered    Unsteered development scores; probabilities for a behaviour that is scored by logits.
    untried      Decoder blocks of the target that were not tried.
    test_change  Native change on the evaluated items, with its interval.
    voiding      Nulls with half of the native change or more, with their shares.
    """

    behaviour: Behaviour
    trials: Sequence[Trial]
    grid: StrengthGrid
    prompts: PromptsRead
    unsteered: Sequence[float]
    untried: Sequence[int]
    test_change: tuple[float, float, float]
    voiding: Mapping[str, float]

    def steps(self) -> list[NextStep]:
        """The suggestions of all rules that apply, the most specific first."""
        rules = (
            self._null,
            self._wrong_direction,
            self._damage_first,
            self._grows,
            self._no_room,
            self._few_items,
            self._development_alone,
            self._few_prompts,
            self._position,
            self._other_layers,
        )
        return [step for rule in rules if (step := rule()) is not None]

    # -- what the rules read ------------------------------------------------------------------------

    @property
    def _undamaged(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.damage <= self.grid.damage_limit]

    @property
    def _moving(self) -> list[Trial]:
        """Undamaged trials whose interval is on the intended side of zero."""
        return [trial for trial in self._undamaged if trial.moves(self.behaviour.direction)]

    def _gain(self, trial: Trial) -> float:
        return self.behaviour.direction * trial.change

    @property
    def _setting(self) -> str:
        adds = self.behaviour.operation == "add"
        return "evaluation.grid.strengths" if adds else "evaluation.grid.ablation_fractions"

    def _layers_to_try(self) -> str:
        return (
            f"layers.target=auto recording.target={listed(spread(self.untried, LAYERS_NAMED))} "
            f"(of {len(self.untried)} not tried)"
        )

    # -- rules --------------------------------------------------------------------------------------

    def _null(self) -> NextStep | None:
        if not self.voiding:
            return None
        name, share = max(self.voiding.items(), key=lambda null: null[1])
        return NextStep(
            "a null moves the score",
            f"the {name.replace('_', ' ')} null has {share:.0%} of the native change",
            "a scorer or items that a vector without the behaviour does not move",
        )

    def _wrong_direction(self) -> NextStep | None:
        wrong = [trial for trial in self._undamaged if trial.moves(-self.behaviour.direction)]
        if self._moving or not wrong:
            return None
        trial = min(wrong, key=self._gain)
        return NextStep(
            "moves against its direction",
            f"at layer {trial.layer} and strength {trial.strength:g} the score changes by {trial.shown}, "
            f"and the behaviour's direction is {self.behaviour.direction:+d}",
            "check which prompts are positive, and the behaviour's direction",
        )

    def _damage_first(self) -> NextStep | None:
        damaged = [trial for trial in self.trials if trial.damage > self.grid.damage_limit]
        if self._moving or not damaged:
            return None
        least = min(trial.strength for trial in damaged)
        limit = f"the damage limit of {self.grid.damage_limit:.0%}"
        below = [trial.strength for trial in self._undamaged if trial.strength < least]
        if self._undamaged:
            because = f"strengths from {least:g} on exceed {limit}, and no undamaged one steers"
            finer = (
                f"strengths between {max(below):g} and {least:g}" if below else f"strengths below {least:g}"
            )
        else:
            because = f"every strength at {_layers(self.trials)} exceeds {limit}"
            finer = f"strengths below {least:g}"
        action = f"{finer} ({self._setting})"
        if self.untried:
            action = f"other layers: {self._layers_to_try()}; or {action}"
        return NextStep("damage before effect", because, action)

    def _grows(self) -> NextStep | None:
        if self._moving or self.behaviour.operation != "add":
            return None
        largest = max(trial.strength for trial in self.trials)
        for last in sorted(self._undamaged, key=self._gain, reverse=True):
            at_layer = sorted(
                (t for t in self.trials if t.layer == last.layer), key=lambda trial: trial.strength
            )
            gains = [0.0, *map(self._gain, at_layer)]
            if last.strength == largest and gains[-1] > 0 and gains == sorted(gains):
                break
        else:
            return None
        strengths = [*self.grid.strengths, *(round(times * largest, 4) for times in LARGER)]
        return NextStep(
            "grows with the strength",
            f"at layer {last.layer} the change grows up to the largest strength, {largest:g} ({last.shown}), "
            f"with a damage of {last.damage:.1%}",
            f"larger strengths: {self._setting}={listed(strengths)}",
        )

    def _no_room(self) -> NextStep | None:
        scorer = self.behaviour.scorer
        low, high = (0.0, 1.0) if isinstance(scorer, LogitScorer) else scorer.scale
        end = high if self.behaviour.direction > 0 else low
        mean = fmean(self.unsteered)
        if abs(end - mean) > NEAR_THE_END * (high - low):
            return None
        what = "probability" if isinstance(scorer, LogitScorer) else "score"
        return NextStep(
            "no room on the scale",
            f"the unsteered model has a mean {what} of {mean:.3g} already, and the scale ends at {end:g}",
            "items on which the unsteered model does not show the behaviour",
        )

    def _few_items(self) -> NextStep | None:
        if self._moving or not self._undamaged:
            return None
        best = max(self._undamaged, key=self._gain)
        items = len(self.unsteered)
        if self._gain(best) <= 0:
            return None
        wanted = math.ceil(items * ((best.high - best.low) / 2 / self._gain(best)) ** 2)
        if not items < wanted <= MOST_ITEMS * items:
            return None
        return NextStep(
            "wide interval",
            f"the best change on development items, {best.shown} over {items} items, has the intended sign, "
            "and its interval contains 0",
            f"more development items: about {wanted} would exclude 0 if change and spread stayed",
        )

    def _development_alone(self) -> NextStep | None:
        if not self._moving or self.voiding:
            return None
        return NextStep(
            "steers development items alone",
            f"on development items the change is {max(self._moving, key=self._gain).shown}, on the evaluated "
            f"ones {with_interval(*self.test_change)}",
            "more items of both splits: the strength was chosen on few, or the two differ in kind",
        )

    def _few_prompts(self) -> NextStep | None:
        ratios = [self.prompts.signal_to_noise.get(trial.layer) for trial in self.trials]
        known = [ratio for ratio in ratios if ratio is not None]
        sides = f"{self.prompts.positives} positive and {self.prompts.negatives} negative prompts"
        if not known:
            if min(self.prompts.positives, self.prompts.negatives) > 1:
                return None
            return NextStep(
                "few prompts",
                f"there are {sides}, too few to tell the vector from chance",
                "more contrastive prompts",
            )
        best = max(known)
        if best >= LEAST_SIGNAL_TO_NOISE:
            return None
        return NextStep(
            "few prompts",
            f"the vector of {sides} is at most {best:.1f} standard errors long at the layers tried; one of "
            "chance is about 1",
            f"more contrastive prompts, or prompts that differ more clearly, until it is "
            f"{LEAST_SIGNAL_TO_NOISE:g} or more",
        )

    def _position(self) -> NextStep | None:
        known = [
            v for trial in self.trials if (v := self.prompts.signal_to_noise.get(trial.layer)) is not None
        ]
        if self._moving or not known or max(known) < LEAST_SIGNAL_TO_NOISE:
            return None
        ends = ", ".join(
            f"{side} {tokens[0][0]!r}"
            for side, tokens in (
                ("positive", self.prompts.positive_tokens),
                ("negative", self.prompts.negative_tokens),
            )
            if tokens
        )
        return NextStep(
            "another position",
            f"the vector is {max(known):.1f} standard errors long and steers at no layer tried; it was "
            f"read at the {self.prompts.position} (most often {ends})",
            "prompts that end where the behaviour shows, and sides that differ in nothing else",
        )

    def _other_layers(self) -> NextStep | None:
        if self._moving or not self.untried or self._damage_first():  # which names them too
            return None
        return NextStep(
            "other layers", f"the vector steers at none of {_layers(self.trials)}", self._layers_to_try()
        )


def _layers(trials: Sequence[Trial]) -> str:
    layers = sorted({trial.layer for trial in trials})
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
