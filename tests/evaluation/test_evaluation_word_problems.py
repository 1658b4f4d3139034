from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from upstream_files import write_rows

from lrt.corpora import Decontaminator
from lrt.errors import InvalidValue
from lrt.evaluation import WordProblems, problem_prompts, word_problems_suite
from lrt.evaluation.dataset_readers import SetUnreadable
from lrt.evaluation.numeric_answer import NumericAnswer
from lrt.evaluation.stand_in_sets import write_set

SMALL: dict[str, Any] = {"contrast_pairs": 8, "development": 3, "test": 5, "answer_tokens": 6}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The format of SVAMP's own file."""
    rows = [
        {"Body": f"Ann has {i} pears.", "Question": "How many are left of them after 1?", "Answer": i - 1.0}
        for i in range(1, 20)
    ]
    return str(write_rows(tmp_path_factory.mktemp("svamp") / "SVAMP.json", rows))


def problems(path: str, **more: Any) -> WordProblems:
    return WordProblems(**{"path": path, "question_fields": ("Body", "Question")} | SMALL | more)


def test_a_file_is_split_by_problem(original: str) -> None:
    (made,) = word_problems_suite(problems(original))
    assert (made.name, made.scorer) == ("reasoning", NumericAnswer(("Problem:",)))
    assert (len(made.positives), len(made.negatives)) == (8, 8)
    assert (len(made.development), len(made.test)) == (3, 5)
    for with_reasoning, direct in zip(made.positives, made.negatives, strict=True):
        (asked,) = (each for each in made.held_out if each in direct)
        assert asked in with_reasoning
        assert with_reasoning != direct
        assert not any(asked in item.prompt for item in made.items)
    for item in made.items:
        # of i pears i - 1 are left
        assert f"Ann has {int(float(item.matching)) + 1} pears. How many" in item.prompt
        assert "one step at a time" in item.prompted
        assert "one step at a time" not in item.prompt
    assert made == word_problems_suite(problems(original))[0]
    assert made != word_problems_suite(problems(original, seed=1))[0]


def test_a_sets_test_problems_are_of_its_test_split(tmp_path: Path) -> None:
    folder = write_set("ChilleD/SVAMP", tmp_path)
    (made,) = word_problems_suite(WordProblems(path=str(folder), **SMALL))
    number = [int(item.prompt.partition("Ann has ")[2].split()[0]) for item in made.test]
    assert min(number) >= 200 > max(int(p.partition("Ann has ")[2].split()[0]) for p in made.positives)
    with pytest.raises(SetUnreadable, match=r"neither dev\.jsonl"):
        word_problems_suite(WordProblems(path=str(folder), test_split="dev", **SMALL))


def test_a_problem_in_both_splits_is_tested_alone(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} + 1?", "answer": f"It is so.\n#### {i + 1}"} for i in range(16)]
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "test.json", rows[:5])
    settings = WordProblems(path=str(tmp_path), question_fields=("question",), answer_field="answer", **SMALL)
    (made,) = word_problems_suite(settings)
    assert not any(row["question"] in text for row in rows[:5] for text in (*made.positives, *made.negatives))
    assert made.scorer.score_all(["The answer is 1."] * 5, made.test).count(1.0) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": 40}, r"test \(40\)"),
        ({"contrast_pairs": 19}, r"contrast_pairs \(19\)"),
        ({"question_fields": ("Text",)}, "'Text' is missing"),
        ({"answer_field": "Body", "question_fields": ("Question",)}, "1 different problems"),
        ({"answer_field": "Question"}, None),
        ({"answer_tokens": 0}, "answer_tokens=0"),
        ({"direct": "Solve it."}, r"direct .* no \{question\}"),
        ({"direct": "{question}", "reasoned": "{question}"}, "are equal"),
        ({"question_fields": ()}, r"question_fields=\[\]"),
    ],
)
def test_what_cannot_be_used_is_refused(original: str, change: dict[str, Any], message: str | None) -> None:
    if message is None:  # a question with a number in it is an answer, too
        assert word_problems_suite(problems(original, **change))
        return
    with pytest.raises(InvalidValue, match=message):
        word_problems_suite(problems(original, **change))


def test_an_answer_without_a_number_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "set.jsonl", [{"Body": "One?", "Question": "Two?", "Answer": "three"}])
    with pytest.raises(SetUnreadable, match="row 1: field 'Answer' has no number: 'three'"):
        word_problems_suite(problems(str(file)))


def test_the_suites_problems_leave_the_corpus_in_either_prompt(original: str) -> None:
    (made,) = word_problems_suite(problems(original))
    written = [*problem_prompts(problems(original))]
    assert len(written) == 2 * 19
    excluded = Decontaminator(made.texts)
    left = {question for text, question in written if not excluded.matches(text)}
    assert left == {question for _, question in written} - set(made.held_out)
    assert len(left) == 19 - 8 - 3 - 5


def test_a_set_of_the_hub_is_streamed_by_its_splits() -> None:
    def rows(path: str, split: str, revision: str | None) -> Any:
        assert (path, revision) == ("ChilleD/SVAMP", None)
        start = 0 if split == "train" else 50
        return ({"question_concat": f"{i} + 1?", "Answer": str(i + 1)} for i in range(start, start + 50))

    with mock.patch("lrt.evaluation.word_problems.hub_rows", rows):
        (made,) = word_problems_suite(WordProblems(**SMALL))
    assert all(float(item.matching) > 50 for item in made.test)
