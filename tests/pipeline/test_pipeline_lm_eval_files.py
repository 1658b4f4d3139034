"""Files for lm-eval: what is in them, and lm-eval's own numbers beside ours (`make test-packages`)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import small_suite
from storybook_models import tiny_llama

from lrt.evaluation import Measurement, SteerableModel, SteeringCondition, measure
from lrt.evaluation.multiple_choice import MultipleChoiceItem
from lrt.evaluation.scorers import Choice
from lrt.evaluation.side_effects import SideEffectSet
from lrt.models import LanguageModel
from lrt.pipeline.lm_eval_files import SteeredAnswers, write_lm_eval_files
from lrt.steering.formats import read_vector

LAYER = 1
CHOICES = (" brave", " timid", " happy", " sad")  # of one token each


@pytest.fixture
def lm(family_tokenizer: Any) -> LanguageModel:
    return tiny_llama(family_tokenizer)


@pytest.fixture
def questions() -> SideEffectSet:
    """Questions with two and with four answers, each of one token."""
    texts = ["Mia went to the barn and was", "There is a ghost in the old mill. Tom is", "The dog is", "Anna"]
    items = tuple(
        MultipleChoiceItem(text, "", CHOICES[i], *rest[:1], further=tuple(rest[1 : 1 + 2 * (i % 2)]))
        for i, text in enumerate(texts)
        for rest in [[each for each in CHOICES if each != CHOICES[i]]]
    )
    return SideEffectSet("capability", "test", Choice(), items, (1.0,) * len(items))


@pytest.fixture
def conditions(lm: LanguageModel) -> list[SteeringCondition]:
    model = SteerableModel(lm, LAYER, 3.0)
    units = torch.nn.functional.normalize(
        torch.randn(3, lm.width, generator=torch.Generator().manual_seed(0)), dim=1
    )
    made = model.conditions("native", units[0], [0.7], -1)
    return [*made, *(c for i in (0, 1) for c in model.conditions("random", units[1 + i], [0.7], -1, i))]


def measured(
    lm: LanguageModel, questions: SideEffectSet, conditions: list[SteeringCondition]
) -> list[Measurement]:
    return measure(lm, LAYER, questions, "test", questions.items, conditions)


def write(
    folder: Path, lm: LanguageModel, questions: SideEffectSet, conditions: list[SteeringCondition]
) -> list[Measurement]:
    rows = measured(lm, questions, conditions)
    write_lm_eval_files(folder, lm, questions, [SteeredAnswers(small_suite()[0], LAYER, conditions, rows)])
    return rows


def test_the_files_hold_what_was_measured(
    lm: LanguageModel, questions: SideEffectSet, conditions: list[SteeringCondition], tmp_path: Path
) -> None:
    write(tmp_path, lm, questions, conditions)
    rows = [json.loads(line) for line in (tmp_path / "capability.jsonl").read_text().splitlines()]
    assert [len(row["answers"]) for row in rows] == [2, 4, 2, 4]
    assert [row["answers"][row["correct"]] for row in rows] == [item.matching for item in questions.items]
    # of answers that score alike, lm-eval takes the first
    assert len({row["correct"] for row in rows}) > 1
    files = {"capitals-native.pt": 0, "capitals-random.pt": 1, "capitals-random-1.pt": 2}
    assert {file.name for file in tmp_path.glob("*.pt")} == set(files)
    for name, index in files.items():
        (vector,) = read_vector(tmp_path / name, "lm-eval", model="m")
        assert vector.layer == LAYER
        torch.testing.assert_close(vector.scaled(), conditions[index].offset)
        assert name in (tmp_path / "README.md").read_text()


@pytest.mark.packages
def test_lm_eval_gives_the_same_number(
    lm: LanguageModel, questions: SideEffectSet, conditions: list[SteeringCondition], tmp_path: Path
) -> None:
    harness = pytest.importorskip("lm_eval")
    tasks = pytest.importorskip("lm_eval.tasks")
    rows = write(tmp_path / "files", lm, questions, conditions)
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "files")
        results = harness.simple_evaluate(
            model="steered",
            model_args={
                "pretrained": str(tmp_path / "model"),
                "steer_path": "capitals-native.pt",
                "dtype": "float32",
                "add_bos_token": True,
            },
            tasks=["capability"],
            task_manager=tasks.TaskManager(include_path="."),
            device="cpu",
            batch_size=1,
            log_samples=True,
            bootstrap_iters=0,
        )
    ours = [row.value for row in rows if row.condition == "native"]
    samples = sorted(results["samples"]["capability"], key=lambda sample: sample["doc_id"])
    for sample, value in zip(samples, ours, strict=True):
        others = [float(response[0][0]) for response in sample["resps"]]
        first = others.pop(sample["doc"]["correct"])
        assert first - max(others) == pytest.approx(value, abs=1e-3)
    accuracy = results["results"]["capability"]["acc,none"]
    assert accuracy == pytest.approx(sum(value > 0 for value in ours) / len(ours))
    unsteered = measured(lm, questions, [SteeringCondition("none", 0.0, torch.zeros(lm.width))])
    assert [row.value for row in unsteered] != pytest.approx(ours, abs=1e-2)
