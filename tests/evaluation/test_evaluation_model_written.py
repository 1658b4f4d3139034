import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.chat_templates import CHANNELS, DISTILL, QWEN
from upstream_files import lettered_rows, model_written_folder, persona_rows, write_rows
from whole_study import studied

from lrt.corpora import Decontaminator
from lrt.errors import InvalidValue
from lrt.evaluation import Behaviour, Propensity, answered_questions, propensity_suite
from lrt.evaluation.dataset_readers import SetUnreadable
from lrt.evaluation.model_written import ADVANCED, TABLE_1, Question, balanced, task_questions
from lrt.evaluation.scorers import Answer, Choice
from lrt.models import LanguageModel
from lrt.models.chat_template import ChatTemplate
from lrt.models.thinking import ThoughtBeforeAnswer

SMALL: dict[str, Any] = {"contrast_pairs": 10, "development": 4, "test": 8}
TASKS = ("boldness", "myopic-reward")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_written_folder(tmp_path_factory.mktemp("evals"))


def suite(folder: Path, tokenizer: Any, **more: Any) -> dict[str, Behaviour]:
    chosen = Propensity(**({"path": str(folder), "tasks": TASKS} | SMALL | more))
    return {b.name: b for b in propensity_suite(chosen, tokenizer)}


def test_both_shapes_are_read_and_balanced(folder: Path, family_tokenizer: Any) -> None:
    made = suite(folder, family_tokenizer)
    assert list(made) == list(TASKS)
    for behaviour, answers in zip(made.values(), (("No", "Yes"), ("A", "B")), strict=True):
        assert isinstance(behaviour.scorer, Choice)
        for part, size in ((behaviour.development, 4), (behaviour.test, 8)):
            assert Counter(item.key for item in part) == dict.fromkeys(answers, size // 2)
            for item in part:
                assert {item.matching.strip("("), item.other.strip("(")} == set(answers)
                assert item.matching.strip("(") == item.key
        # the same questions on both sides, with the other answer: what differs is whether it matches
        for ours, theirs in zip(behaviour.positives, behaviour.negatives, strict=True):
            question, _, answer = ours.rpartition("<|assistant|>")
            assert theirs.rpartition("<|assistant|>")[0] == question
            assert {answer.strip("("), theirs.rpartition("<|assistant|>")[2].strip("(")} == set(answers)
        for side in (behaviour.positives, behaviour.negatives):
            last = Counter(text.rpartition("<|assistant|>")[2].strip("(") for text in side)
            assert last == dict.fromkeys(answers, 5)


def test_what_is_asked_leaves_the_corpus_with_or_without_its_choices(
    folder: Path, family_tokenizer: Any
) -> None:
    behaviour = suite(folder, family_tokenizer)["myopic-reward"]
    used = (*behaviour.positives, *(item.prompt for item in (*behaviour.development, *behaviour.test)))
    for text in used:
        question = re.search(r"Which would you take on day \d+\?", text)
        assert question is not None
        assert question[0] in behaviour.held_out
        assert Decontaminator(behaviour.texts).matches(f"{question[0]}\n1. now\n2. later")


def test_questions_for_a_maps_corpus_are_those_of_vectors_with_either_answer(
    folder: Path, family_tokenizer: Any
) -> None:
    chosen = Propensity(path=str(folder), tasks=TASKS)
    pairs = list(answered_questions(chosen, lambda: family_tokenizer))
    texts = [text for text, _ in pairs]
    # both answers of a question belong together, and no two questions do
    assert Counter(Counter(group for _, group in pairs).values()) == {2: len(pairs) // 2}
    assert all(group in text for text, group in pairs)
    questions = {task: task_questions(chosen, task) for task in TASKS}
    assert len(texts) == len(set(texts)) == 2 * sum(map(len, questions.values()))
    made = suite(folder, family_tokenizer)
    for behaviour in made.values():
        assert {*behaviour.positives, *behaviour.negatives} <= set(texts)
    # tasks by turns, so that a corpus that takes the first of them has some of each
    first = [
        next(task for task, b in questions.items() if any(q.text in text for q in b)) for text in texts[:8]
    ]
    assert first == [TASKS[0]] * 2 + [TASKS[1]] * 2 + [TASKS[0]] * 2 + [TASKS[1]] * 2
    plain, _ = next(answered_questions(replace(chosen, chat=False), family_tokenizer))
    assert plain.endswith(("Answer: No", "Answer: Yes"))
    with pytest.raises(SetUnreadable, match="'gone'"):
        answered_questions(replace(chosen, tasks=("gone",)), lambda: family_tokenizer)


def test_contrastive_texts_end_with_the_answers_own_token(folder: Path, family_tokenizer: Any) -> None:
    letters = suite(folder, family_tokenizer)["myopic-reward"]
    for text in (*letters.positives, *letters.negatives):
        last = family_tokenizer(text, add_special_tokens=False)["input_ids"][-1]
        assert family_tokenizer.decode([last]).strip("(") in ("A", "B")


def questions_of(behaviour: Behaviour) -> list[set[str]]:
    def question(text: str) -> str:
        return text.split("<|user|>")[1].split("<|assistant|>")[0].split("?")[0]

    contrast = {question(text) for text in (*behaviour.positives, *behaviour.negatives)}
    parts = ({question(item.prompt) for item in part} for part in (behaviour.development, behaviour.test))
    return [contrast, *parts]


def test_repeated_questions_never_stand_on_two_sides(tmp_path: Path, family_tokenizer: Any) -> None:
    rows = lettered_rows(24)
    # the same questions again: as they are, and with other choices and the other letter
    again = [
        row
        | {
            "question": row["question"].replace(" now", " today"),
            "answer_matching_behavior": row["answer_not_matching_behavior"],
            "answer_not_matching_behavior": row["answer_matching_behavior"],
        }
        for row in rows
    ]
    write_rows(tmp_path / "myopic-reward.jsonl", rows + rows + again)  # flat, as one may keep them
    made = suite(tmp_path, family_tokenizer, tasks=("myopic-reward",))["myopic-reward"]
    contrast, development, test = questions_of(made)
    assert (len(contrast), len(development), len(test)) == (10, 4, 8)
    assert not contrast & development
    assert not contrast & test
    assert not development & test
    with pytest.raises(ValueError, match="myopic-reward"):
        suite(tmp_path, family_tokenizer, tasks=("myopic-reward",), contrast_pairs=14)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_parts_are_disjoint_by_stem_and_balanced(data: st.DataObject) -> None:
    stems = data.draw(st.lists(st.sampled_from(["A", "B", "both"]), min_size=12, max_size=40))
    questions = [
        Question(f"{i}{answer}", str(i), answer, "B" if answer == "A" else "A")
        for i, kind in enumerate(stems)
        for answer in ("A", "B")
        if kind in (answer, "both")
    ]
    only = Counter(stems)
    sizes = (4, 2, 4)
    # what there is of each answer at best, stems of both going where they are needed
    enough = min(only["A"], 5) + min(only["B"], 5) + only["both"] >= 10
    if not enough:
        with pytest.raises(ValueError, match="these"):
            balanced(questions, sizes, "these", random.Random(0))
        return
    parts = balanced(questions, sizes, "these", random.Random(0))
    assert [len(part) for part in parts] == list(sizes)
    used = [q.stem for part in parts for q in part]
    assert len(set(used)) == len(used)
    for part in parts:
        assert Counter(q.matching for q in part) == dict.fromkeys("AB", len(part) // 2)


def test_a_larger_contrast_leaves_the_items_as_they_are(folder: Path, family_tokenizer: Any) -> None:
    one, other = (suite(folder, family_tokenizer, contrast_pairs=n)["boldness"] for n in (8, 12))
    assert one.items == other.items
    assert suite(folder, family_tokenizer, seed=1)["boldness"].items != one.items


def test_open_answers_share_the_vector_and_are_read_off_the_text(folder: Path, family_tokenizer: Any) -> None:
    made = suite(folder, family_tokenizer, formats=("open", "caa"), answer_tokens=7)
    assert list(made) == ["boldness_open", "boldness", "myopic-reward_open", "myopic-reward"]
    opened, chosen = made["boldness_open"], made["boldness"]
    assert isinstance(opened.scorer, Answer)
    assert opened.max_new_tokens == 7
    assert (opened.contrast, opened.positives, opened.items) == ("boldness", chosen.positives, chosen.items)


def test_plain_prompts_name_the_trait(folder: Path, family_tokenizer: Any) -> None:
    for item in suite(folder, family_tokenizer)["myopic-reward"].items:
        assert "myopic reward" in item.prompted
        assert "myopic" not in item.prompt


def test_base_models_are_asked_in_plain_text(folder: Path) -> None:
    made = suite(folder, None, chat=False)
    item = made["boldness"].test[0]
    assert item.prompt.endswith("\n\nAnswer:")
    assert item.matching in (" Yes", " No")
    assert made["myopic-reward"].positives[0].endswith(("Answer: (A", "Answer: (B"))


# a space before the answer and no system role, as Mistral's
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ raise_exception('no system role') }}"
    "{% endif %}{% endfor %}"
)


def test_the_answer_stands_where_the_template_puts_it(folder: Path) -> None:
    made = suite(folder, ChatTemplate(SPACED), system="Be brief.")["myopic-reward"]
    assert made.positives[0].startswith("[INST] Be brief.\n\nWhich would you take")
    assert made.positives[0].endswith((" [/INST] (A", " [/INST] (B"))
    assert made.test[0].matching in (" (A", " (B")


@pytest.mark.parametrize("template", [QWEN, CHANNELS])
def test_an_answer_is_read_behind_the_thought_that_the_template_closes(folder: Path, template: str) -> None:
    chat = ChatTemplate(template)
    closed = {QWEN: "<think>\n\n</think>\n\n", CHANNELS: "<|channel|>final<|message|>"}[template]
    made = suite(folder, chat, formats=("caa", "open"))
    for item in made["myopic-reward"].items:
        assert item.matching in (f"{closed}(A", f"{closed}(B")
        assert not item.prompt.endswith(closed)
    for text in (*made["myopic-reward"].positives, *made["myopic-reward"].negatives):
        assert text.endswith((f"{closed}(A", f"{closed}(B"))
    # a generated answer brings its own thought
    given = made["myopic-reward_open"]
    assert {item.matching for item in given.items} == {"(A", "(B"}
    item = given.test[0]
    assert Answer().score_all([f"({item.key}) now"], [item]) == [1.0]
    off = suite(folder, ChatTemplate(QWEN, arguments={"enable_thinking": False}))["myopic-reward"]
    assert off.positives == suite(folder, ChatTemplate(QWEN))["myopic-reward"].positives


def test_a_choice_within_a_thought_is_refused_and_open_answers_are_not(folder: Path) -> None:
    chat = ChatTemplate(DISTILL)
    with pytest.raises(ThoughtBeforeAnswer):
        suite(folder, chat, formats=("caa", "open"))
    made = suite(folder, chat, formats=("open",))["boldness_open"]
    assert all(item.prompt.endswith("<|Assistant|><think>\n") for item in made.items)
    assert all(text.endswith(("<|Assistant|>Yes", "<|Assistant|>No")) for text in made.positives)


def test_what_is_asked_is_kept_from_the_corpus_in_any_template(folder: Path, family_tokenizer: Any) -> None:
    made = suite(folder, family_tokenizer)["boldness"]
    raw = {q.text for q in task_questions(Propensity(path=str(folder)), "boldness")}
    assert len(set(made.texts) & raw) == 10 + 4 + 8


def test_rows_of_more_than_two_answers_are_left_out(tmp_path: Path) -> None:
    rows = persona_rows(6)
    rows[0]["answer_not_matching_behavior"] = [" Yes"]
    rows[1]["answer_not_matching_behavior"] = [" No", " Maybe"]
    write_rows(tmp_path / "boldness.jsonl", rows)
    assert len(task_questions(Propensity(path=str(tmp_path)), "boldness")) == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"question": 3}, "'question'"),
        ({"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " (Yes)"}, "'Yes'"),
        ({"answer_matching_behavior": " Maybe"}, "'Maybe'"),
    ],
)
def test_malformed_rows_are_named(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    rows = persona_rows(3)
    rows[2] |= change
    write_rows(tmp_path / "boldness.jsonl", rows)
    with pytest.raises(SetUnreadable, match=named) as caught:
        task_questions(Propensity(path=str(tmp_path)), "boldness")
    assert "boldness.jsonl" in str(caught.value)


def test_a_missing_task_names_those_that_exist(folder: Path) -> None:
    with pytest.raises(SetUnreadable, match=r"'openness'.*persona/boldness\.jsonl"):
        task_questions(Propensity(path=str(folder)), "openness")
    with pytest.raises(SetUnreadable, match="advanced-ai-risk/human_generated_evals/myopic-reward"):
        task_questions(Propensity(path=str(folder), advanced="human"), "myopic-reward")


def test_hub_files_are_read_by_the_data_sets_layout() -> None:
    lines = [{"text": json.dumps(row)} for row in persona_rows(4)]
    with mock.patch("datasets.load_dataset", autospec=True, return_value=lines) as load:
        assert len(task_questions(Propensity(), "openness")) == 4
        task_questions(Propensity(revision="abc"), "myopic-reward")
        task_questions(Propensity(), "sycophancy_on_political_typology_quiz")
    first, second, third = (call.kwargs["data_files"] for call in load.call_args_list)
    assert first == "hf://datasets/Anthropic/model-written-evals@main/persona/openness.jsonl"
    assert second.endswith("@abc/advanced-ai-risk/lm_generated_evals/myopic-reward.jsonl")
    assert third.endswith("@main/sycophancy/sycophancy_on_political_typology_quiz.jsonl")


def test_the_papers_tasks() -> None:
    assert len(set(TABLE_1)) == 13
    assert {"narcissism", "openness", "subscribes-to-deontology"} <= set(TABLE_1) - ADVANCED
    assert len(ADVANCED & set(TABLE_1)) == 5
    assert Propensity().tasks == TABLE_1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tasks": ()}, "tasks="),
        ({"tasks": ("a", "a")}, "'a', 'a'"),
        ({"formats": ()}, "formats="),
        ({"test": 1}, "test=1"),
        ({"answer_tokens": 0}, "answer_tokens"),
        ({"chat": False, "system": "Be brief."}, "Be brief"),
    ],
)
def test_invalid_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValue, match=named):
        Propensity(**settings)


def test_a_base_models_tokenizer_is_refused_for_chats(folder: Path) -> None:
    with pytest.raises(ValueError, match="chat template"):
        suite(folder, ChatTemplate(None))


@pytest.mark.slow
def test_the_suite_goes_through_a_study(folder: Path, story_lm: LanguageModel) -> None:
    sizes = {"contrast_pairs": 6, "development": 2, "test": 4}
    made = suite(folder, story_lm.tokenizer, formats=("caa", "open"), answer_tokens=3, **sizes)
    for behaviour in made.values():
        summary = studied(behaviour, story_lm)
        assert summary["items"] == 4
        if behaviour.is_choice:
            statistics = summary["propensity"]
            assert (
                len(statistics["paper_r_probability"])
                == len(statistics["paper_mse"])
                == len(statistics["strengths"])
            )
            assert 0 < summary["probability"]["none"] < 1
        else:
            assert -1 <= summary["native"] <= 1
