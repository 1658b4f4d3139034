"""Files with which `lm_eval --model steered` repeats the measurement of capability, and our own numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrt.config.errors import ConfigError
from lrt.evaluation import Behaviour, Measurement, SteeringCondition
from lrt.evaluation.lm_eval_task import VERSION, write_task
from lrt.evaluation.side_effects import SideEffects, SideEffectSet
from lrt.models import LanguageModel, blocks_name
from lrt.models.special_tokens import leading_ids
from lrt.steering import SteeringVector
from lrt.steering.formats import write_vectors
from lrt.storage.catalogue import slug
from lrt.storage.durable import write_durably

TASK = "capability"


@dataclass(frozen=True)
class SteeredAnswers:
    """One behaviour's conditions, and the scores of the questions under each."""

    behaviour: Behaviour
    layer: int
    conditions: Sequence[SteeringCondition]
    rows: Sequence[Measurement]

    def accuracy(self, condition: SteeringCondition) -> float:
        """Share of questions that are answered correctly under one condition."""
        values = [
            row.value
            for row in self.rows
            if (row.condition, row.draw) == (condition.condition, condition.draw)
        ]
        return sum(value > 0 for value in values) / len(values)


def check_lm_eval(settings: SideEffects, sets: Sequence[SideEffectSet]) -> None:
    """Raises ConfigError where files are wanted and there are no questions."""
    if settings.lm_eval and not any(each.name == "capability" for each in sets):
        raise ConfigError(
            "evaluation.side_effects.lm_eval=true: there are no questions to write. Name them in "
            "evaluation.side_effects.capability.paths, or set lm_eval=false"
        )


def write_lm_eval_files(
    folder: Path, lm: LanguageModel, questions: SideEffectSet, answers: Sequence[SteeredAnswers]
) -> None:
    """Write the task, a vector file for each behaviour and condition, and a README with commands and our
    accuracies.

    A behaviour that ablates is skipped with a remark: lm-eval's `clamp` is another operation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_task(questions.items, folder, TASK)
    accuracies: dict[str, float] = {}
    skipped = []
    for each in answers:
        if each.behaviour.operation != "add":
            skipped.append(each.behaviour.name)
            continue
        for condition in each.conditions:
            draw = f"-{condition.draw}" if condition.draw else ""
            name = f"{slug(each.behaviour.name)}-{slug(condition.condition)}{draw}.pt"
            length = float(condition.offset.norm())
            if not length:  # such a vector does not steer, and has no file
                continue
            vector = SteeringVector(condition.offset, each.layer, lm.spec.name, length, each.behaviour.name)
            # the strength is part of the vector: strength 1 adds it as it was measured
            write_vectors(vector, folder / name, "lm-eval", strength=1.0, blocks=blocks_name(lm.model))
            accuracies[name] = each.accuracy(condition)
    write_durably(folder / "README.md", _readme(lm, accuracies, skipped).encode())


def _readme(lm: LanguageModel, accuracies: Mapping[str, float], skipped: Sequence[str]) -> str:
    bos = "True" if leading_ids(lm.tokenizer) else "False"
    dtype = str(lm.dtype).removeprefix("torch.")
    arguments = f"pretrained=MODEL,steer_path=FILE,dtype={dtype},add_bos_token={bos}"
    rows = "".join(f"| `{name}` | {accuracy:.4f} |\n" for name, accuracy in accuracies.items())
    remark = f"\nSkipped, since lm-eval cannot ablate: {', '.join(skipped)}.\n" if skipped else ""
    return (
        f"# Capability of {lm.spec.name} in lm-eval\n\n"
        f"Start in this folder, with lm-eval {VERSION}; MODEL is the model's folder or hub id:\n\n"
        f"```\nlm_eval --model steered --model_args {arguments} \\\n"
        f"  --tasks {TASK} --include_path . --batch_size 1\n```\n\n"
        "Our own accuracy on the same questions:\n\n"
        f"| FILE | accuracy |\n| --- | ---: |\n{rows}{remark}"
    )
