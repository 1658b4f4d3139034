"""Texts are scored without their thoughts, and texts that never leave a thought are counted."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_studies import GRID, planted_study
from small_behaviours import text_behaviour

from lrt.evaluation import StrengthChoice, summarise
from lrt.evaluation.measuring import SteeringCondition, measure
from lrt.evaluation.refusal import PHRASES
from lrt.evaluation.rescoring import rescore
from lrt.evaluation.scorers import Opening, UppercaseShare
from lrt.evaluation.study import Study
from lrt.evaluation.thoughts import answer_of, score_answers
from lrt.models import LanguageModel
from lrt.models.thinking import ThoughtTags

THINK = ThoughtTags("<think>", "</think>")
FINAL = ThoughtTags("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")
PREFILLED = ThoughtTags("<think>\nOkay, so", "</think>")
TAGS = (PREFILLED, THINK, FINAL)
NO = "I cannot do that."


@pytest.mark.parametrize(
    ("prompt", "text", "answer"),
    [
        ("Q", NO, NO),
        ("Q", f"  {NO}", f"  {NO}"),
        ("Q", f"<think>\n\n</think>\n\n{NO}", NO),
        ("Q", f"\n<think>Sure, here it is.</think>{NO}", NO),
        ("Q", f"<think>a</think><think>b</think>{NO}", NO),
        ("Q", "<think>Sure, here", None),
        ("Q", f"<think>a</think>{NO}<think>b", None),
        ("Q", "<think>a</think>\n", None),
        ("Q", "", ""),
        ("Q<think>\n", f"Sure, here it is.\n</think>\n\n{NO}", NO),
        ("Q<think>\n", "Sure, here it is.", None),
        ("Q<think>\nOkay, so", "I will.", None),
        ("Q<think>\nOkay, so", f" I will.</think>{NO}", NO),
        ("Q<think>\n\n</think>\n\n", NO, NO),
        # opened in a way that the prompt does not show
        ("Q", f"Sure.</think>{NO}", NO),
        (
            "<|start|>assistant",
            f"<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>{NO}",
            NO,
        ),
        ("<|start|>assistant", f"<|channel|>final<|message|>{NO}", NO),
        ("<|start|>assistant", "<|channel|>analysis<|message|>Hm", None),
    ],
)
def test_an_answer_is_the_text_without_its_thoughts(prompt: str, text: str, answer: str | None) -> None:
    assert answer_of(text, prompt, TAGS) == answer
    (score,) = score_answers(Opening(PHRASES), [text], [prompt], text_behaviour().test[:1], TAGS)
    assert math.isnan(score) if answer is None else score == bool(answer)
    # a model that knows no thoughts means what it writes
    assert answer_of(text, prompt, ()) == text


def test_unfinished_thoughts_are_counted_and_whole_texts_kept(
    story_lm: LanguageModel, tmp_path: Path
) -> None:
    plain = text_behaviour()
    conditions = [SteeringCondition("none", 0.0, torch.zeros(story_lm.width))]
    rows = measure(story_lm, 0, plain, "test", plain.test, conditions)
    text = rows[0].text
    assert text
    # whatever the model writes first is taken for a tag that no other closes
    thinking = replace(plain, thought_tags=(ThoughtTags(text[:3], "</never>"),))
    scored = measure(story_lm, 0, thinking, "test", thinking.test, conditions)
    assert [row.text for row in scored] == [row.text for row in rows]
    assert [math.isnan(row.value) for row in scored] == [text[:3] in (row.text or "") for row in rows]
    # a scorer that comes later leaves thoughts out, too
    study = Study(plain.name, StrengthChoice(0.5, 1.0, False, 1), tuple(rows), (), "test")
    later = rescore(UppercaseShare(), thinking, study, tmp_path / "scores.json")
    assert sum(map(math.isnan, later.values())) == sum(math.isnan(row.value) for row in scored)


def test_a_report_says_how_many_texts_have_no_answer() -> None:
    behaviour = replace(text_behaviour(), thought_tags=(THINK,))
    study = planted_study(behaviour)
    cut = behaviour.test[0].id
    rows = tuple(
        replace(row, text="<think>Hm", value=math.nan)
        if (row.item, row.condition, row.split) == (cut, "shuffled", "test")
        else row
        for row in study.measurements
    )
    number = sum(row.text == "<think>Hm" for row in rows)
    summary = summarise(behaviour, replace(study, measurements=rows), GRID)
    assert summary["items"] == 2
    assert f"{number} texts end within a thought" in summary["note"]
    assert "thought" not in summarise(behaviour, study, GRID)["note"]
