"""Questions in the allowed formats become items; any other row is refused with what is allowed."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lrt.errors import InvalidValue
from lrt.evaluation.multiple_choice import multiple_choice_items

MMLU = {"question": "2 + 2?", "subject": "maths", "choices": ["3", "4", "5", "6"], "answer": 1}
TWO = {
    "prompt": "2 + 2?\n\nChoices:\n(A) 4\n(B) 5",
    "correct": "(A)",
    "incorrect": "(B)",
    "category": "maths",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "questions.jsonl"


def items_of(file: Path, *rows: Any, most: int = 10, **settings: Any) -> Any:
    file.write_text("\n".join(map(json.dumps, rows)))
    return multiple_choice_items([str(file)], most, None, **settings)


def test_mmlu(file: Path) -> None:
    (item,) = items_of(file, MMLU)
    assert item.prompt == "2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:"
    assert (item.matching, item.other, *item.others) == (" B", " A", " C", " D")
    assert item.key == "B"


@pytest.mark.parametrize("answer", [1, "B"])
def test_an_answer_is_an_index_or_a_letter(file: Path, answer: Any) -> None:
    (item,) = items_of(file, MMLU | {"answer": answer})
    assert item.key == "B"


def test_two_choices_in_the_prompt(file: Path) -> None:
    (item,) = items_of(file, TWO)
    assert item.prompt.endswith("(B) 5\n\nAnswer:")
    assert (item.matching, item.other, item.others) == (" (A", " (B", ())


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2 + 2?"},
        {"text": "no question"},
        MMLU | {"answer": 4},
        MMLU | {"answer": -1},
        MMLU | {"answer": True},
        MMLU | {"answer": None},
        MMLU | {"answer": "E"},
        MMLU | {"answer": "4"},
        MMLU | {"choices": ["4"], "answer": 0},
        MMLU | {"choices": []},
        MMLU | {"choices": "3 4 5"},
        MMLU | {"choices": [3, 4]},
        MMLU | {"choices": ["3", "\ud83c"]},
        MMLU | {"choices": {"text": ["3", "4"], "label": ["A", "B"]}},
        MMLU | {"choices": [str(n) for n in range(27)]},
        MMLU | {"question": 5},
        TWO | {"correct": "4"},
        TWO | {"correct": "(B)"},
        TWO | {"incorrect": "(C)"},
        TWO | {"prompt": "2 + 2?"},
    ],
)
def test_other_rows_are_refused_and_named(file: Path, row: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue) as error:
        items_of(file, MMLU, row)
    assert "row 2" in str(error.value)


@pytest.mark.parametrize("text", ["", "not json", "3", '"text"', "[1, 2]"])
def test_files_that_hold_no_questions_are_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidValue, match=r"questions\.jsonl"):
        multiple_choice_items([str(file)], 3, None)
    with pytest.raises(InvalidValue, match="missing"):
        multiple_choice_items([str(file.with_name("missing.json"))], 3, None)
    other = file.rename(file.with_suffix(".csv"))
    with pytest.raises(InvalidValue, match=r"must end in \.json or \.jsonl"):
        multiple_choice_items([str(other)], 3, None)


def test_a_draw_is_of_all_questions_once_and_the_same_again(file: Path) -> None:
    rows = [MMLU | {"question": f"{n} + 2?"} for n in range(30)]
    drawn = items_of(file, *rows, *rows, most=12, seed=1)
    assert len({item.prompt for item in drawn}) == 12
    assert drawn == items_of(file, *rows, most=12, seed=1)
    assert drawn != items_of(file, *rows, most=12, seed=2)
    assert len(items_of(file, *rows, most=100)) == 30


@pytest.mark.slow
def test_a_hub_set_is_streamed_by_subset_and_revision() -> None:
    with mock.patch("datasets.load_dataset", autospec=True, return_value=[MMLU]) as load:
        (item,) = multiple_choice_items(["cais/mmlu@abc"], 3, None, subset="all", split="validation")
    assert item.key == "B"
    assert load.call_args.args == ("cais/mmlu",)
    assert load.call_args.kwargs["name"] == "all"
    assert (load.call_args.kwargs["split"], load.call_args.kwargs["revision"]) == ("validation", "abc")
