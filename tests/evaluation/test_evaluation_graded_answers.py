"""A phrase in broken text is no effect."""

from dataclasses import replace

import pytest
from planted_studies import planted_study
from small_behaviours import choice_behaviour, text_behaviour

from lrt.evaluation import Behaviour, Study
from lrt.evaluation.graded_answers import graded_answers
from lrt.models.thinking import ThoughtTags

TEXT = "The little boy went to the barn."
LOOP = "dog " * 12


def with_texts(study: Study, broken: dict[str, int]) -> Study:
    """The study with the text of every answer, of which the first ones of some conditions are loops."""
    counts = dict.fromkeys(broken, 0)
    rows = []
    for row in study.measurements:
        text = TEXT
        if row.split == "test" and row.strength == study.choice.strength and row.draw == 0:
            counts[row.condition] = counts.get(row.condition, 0) + 1
            if counts[row.condition] <= broken.get(row.condition, 0):
                text = LOOP
        rows.append(replace(row, text=text))
    return replace(study, measurements=tuple(rows))


@pytest.fixture
def behaviour() -> Behaviour:
    return text_behaviour(test=3)


def test_degenerate_answers_count_as_no_change(behaviour: Behaviour) -> None:
    graded = graded_answers(behaviour, with_texts(planted_study(behaviour), {"transferred": 1}))
    assert graded is not None
    shares = {name: at["degenerate"] for name, at in graded["conditions"].items()}
    assert shares["transferred"] == pytest.approx(1 / 3)
    assert (shares["none"], shares["native"], shares["prompt"]) == (0.0, 0.0, 0.0)
    assert graded["conditions"]["transferred"]["faults"] == {"loop": 1}
    low, high = graded["conditions"]["transferred"]["degenerate_ci"]
    assert low <= 1 / 3 <= high
    # 2.0 for every item, 1.6 for two of three
    assert graded["native_change"] == pytest.approx(2.0)
    assert graded["transferred_change"] == pytest.approx(1.6 * 2 / 3)
    assert graded["ratio"] == pytest.approx(0.8 * 2 / 3)
    assert "33%" in graded["note"]


def test_answers_that_are_text_change_nothing(behaviour: Behaviour) -> None:
    graded = graded_answers(behaviour, with_texts(planted_study(behaviour), {}))
    assert graded is not None
    assert graded["ratio"] == pytest.approx(0.8)
    assert graded["note"] == ""


def test_no_ratio_where_the_native_answers_are_broken(behaviour: Behaviour) -> None:
    graded = graded_answers(behaviour, with_texts(planted_study(behaviour), {"native": 3}))
    assert graded is not None
    assert graded["conditions"]["native"]["degenerate"] == 1.0
    assert graded["native_change"] == 0.0
    assert graded["ratio"] is None


def test_thoughts_are_not_graded_and_an_unfinished_one_is_no_answer(behaviour: Behaviour) -> None:
    tags = ThoughtTags("<think>", "</think>")
    thinking = replace(behaviour, thought_tags=(tags,))
    study = with_texts(planted_study(thinking), {})
    item = study.measurements[-1].item

    def text(row_item: str) -> str:
        return f"<think>{LOOP}" if row_item == item else f"<think>{LOOP}</think>{TEXT}"

    rows = tuple(replace(row, text=text(row.item)) for row in study.measurements)
    graded = graded_answers(thinking, replace(study, measurements=rows))
    assert graded is not None
    assert graded["conditions"]["native"]["answers"] == 2
    assert graded["conditions"]["native"]["degenerate"] == 0.0


def test_choices_have_no_answers() -> None:
    behaviour = choice_behaviour()
    assert graded_answers(behaviour, planted_study(behaviour)) is None
