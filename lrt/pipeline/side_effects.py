"""Beside stage 6: side effects of each behaviour's vectors at its chosen layer and strength."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lrt.config import Evaluation
from lrt.evaluation import Behaviour, Measurement, SteerableModel, SteeringCondition, end_tokens
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import UNSTEERED
from lrt.evaluation.resumable import ResumableMeasuring
from lrt.evaluation.side_effects import SideEffects, SideEffectSet, of_operation, side_effect_sets
from lrt.evaluation.side_effects_summary import summarise_side_effects
from lrt.lab.shipped import family_card
from lrt.models import sampling_facts
from lrt.pipeline.evaluation import Studied, Studies
from lrt.pipeline.lm_eval_files import SteeredAnswers, check_lm_eval, write_lm_eval_files
from lrt.pipeline.pair import ModelPair
from lrt.steering import prompts_digest
from lrt.storage.cache import JSON

STEERED = ("native", "transferred")
DRAWN = ("random", "untrained_source")
VERSION = 1


def plan_side_effects(settings: Evaluation, pair: ModelPair) -> tuple[SideEffectSet, ...]:
    """The sets to measure. Raises a `UserError` for files, data sets and answers that cannot be used."""
    target = pair.models["target"]
    storybook = family_card(Path(target.spec.path)) is not None
    wanted = settings.side_effects
    sets = side_effect_sets(wanted, target.tokenizer, pair.template, storybook=storybook)
    check_lm_eval(wanted, sets)
    return sets


class SideEffectStudies:
    """Measures the sets under each behaviour's vectors; cached by vectors, and by batch while under way.

    The unsteered model is measured once for all behaviours, and so are vectors that several behaviours share
    with layer and strength.
    """

    def __init__(self, sets: Sequence[SideEffectSet], studies: Studies) -> None:
        self.sets, self.studies = tuple(sets), studies

    def summaries(self, studied: Sequence[Studied]) -> dict[str, dict[str, Any]]:
        """By behaviour and set, what `summarise_side_effects` says."""
        if not self.sets:
            return {}
        with self.studies.monitor.stage("side effects"):
            unsteered = self._unsteered()
            summaries: dict[str, dict[str, Any]] = {}
            for each in studied:
                steered = self._steered(each.behaviour)
                made = {
                    one.name: summarise_side_effects(
                        one, unsteered[one.name] + steered[one.name], self.studies.seed
                    )
                    for one in self.sets
                }
                summaries[each.behaviour.name] = {k: v for k, v in made.items() if v is not None}
        return summaries

    def conditions_of(self, behaviour: Behaviour) -> list[SteeringCondition]:
        """How the model is steered: native, transferred, and those of `DRAWN` that there are."""
        chosen, units = self.studies.choices.of(behaviour), self.studies.directions_of(behaviour)
        draws = {name: units[name][:1] for name in STEERED}
        draws |= {name: units[name][: self._settings.random_draws] for name in DRAWN if name in units}
        return [
            condition
            for name, some in draws.items()
            for draw, unit in enumerate(some)
            for condition in chosen.model.conditions(
                name, unit, [chosen.choice.strength], behaviour.direction, draw
            )
        ]

    def write_lm_eval(self, folder: Path, studied: Sequence[Studied]) -> None:
        """Files with which lm-eval asks the same questions under the same vectors."""
        questions = next(one for one in self.sets if one.name == "capability")
        answers = []
        for each in studied:
            choices = self.studies.choices
            layer, conditions = choices.of(each.behaviour).choice.layer, self.conditions_of(each.behaviour)
            rows = self._steered(each.behaviour)["capability"]
            answers.append(SteeredAnswers(each.behaviour, layer, conditions, rows))
        write_lm_eval_files(folder, self.studies.choices.pair.target, questions, answers)

    def _steered(self, behaviour: Behaviour) -> dict[str, list[Measurement]]:
        sets = [of_operation(one, behaviour.operation) for one in self.sets]
        chosen = self.studies.choices.of(behaviour)
        # of the vectors and not of the behaviour's items: behaviours that share them are measured once
        facts = {
            **self.studies.shared_facts,
            "prompts": prompts_digest(behaviour.positives, behaviour.negatives),
            "map": self.studies.maps.of(behaviour).name,
            "layer": chosen.choice.layer,
            "strength": chosen.choice.strength,
            "direction": behaviour.direction,
            "operation": behaviour.operation,
            "random": self._settings.random_draws,
        }
        name = behaviour.contrast
        return self._measured(name, sets, chosen.model, facts, lambda: self.conditions_of(behaviour))

    def _unsteered(self) -> dict[str, list[Measurement]]:
        pair, model = self.studies.choices.pair, self.studies.choices.pair.target
        facts = {
            "model": pair.identities["target"],
            "tokenizer": pair.identities["tokenizer"],
            **sampling_facts(self.studies.settings.temperature),
            "ends": end_tokens(model),
        }
        steerable = SteerableModel(model, model.depth - 1, 0.0)
        none = [SteeringCondition(UNSTEERED, 0.0, torch.zeros(model.width))]
        return self._measured("unsteered", self.sets, steerable, facts, lambda: none)

    def _measured(
        self,
        name: str,
        sets: Sequence[SideEffectSet],
        model: SteerableModel,
        facts: dict[str, Any],
        conditions: Callable[[], list[SteeringCondition]],
    ) -> dict[str, list[Measurement]]:
        """Rows by set."""
        settings, monitor = self.studies.settings, self.studies.monitor

        def make(partial: Path) -> dict[str, list[dict[str, Any]]]:
            made = conditions()
            rows = len(made) * sum(len(one.items) for one in sets)
            measured = {}
            with Journal(partial) as journal, monitor.progress(f"{name}, side effects", rows) as advance:
                for one in sets:
                    measuring = ResumableMeasuring(
                        one, "test", settings.temperature, settings.max_rows, advance, journal
                    )
                    measured[one.name] = measuring.measured(one.name, model, one.items, made)
            return {kind: list(map(asdict, rows)) for kind, rows in measured.items()}

        whole = {"version": VERSION, "sets": [one.facts for one in sets], **facts}
        stored = self.studies.cache.resumed("side_effects", whole, make, JSON, name)
        return {kind: [Measurement(**row) for row in rows] for kind, rows in stored.items()}

    @property
    def _settings(self) -> SideEffects:
        return self.studies.settings.side_effects
