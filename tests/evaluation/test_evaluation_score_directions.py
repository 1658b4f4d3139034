"""Scores under several directions at a chosen strength: the engine's own, gathered by condition."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from small_behaviours import choice_behaviour, text_behaviour

from lrt.evaluation import Behaviour, Chosen, SteerableModel, StrengthChoice, rows_along, scores_along
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import measure
from lrt.models import LanguageModel


@pytest.mark.parametrize("behaviour", [choice_behaviour(direction=-1), text_behaviour()])
def test_scores_are_those_of_the_engine(behaviour: Behaviour, story_lm: LanguageModel) -> None:
    model = SteerableModel(story_lm, 1, 2.0)
    chosen = Chosen(StrengthChoice(0.5, 1.0, False, 1, 1), model, (), ())
    generator = torch.Generator().manual_seed(0)
    one, first, second = (torch.randn(story_lm.width, generator=generator) for _ in range(3))
    directions = {"one": [7 * one], "null": [first, second]}
    done: list[int] = []
    scores_by_name = scores_along(
        chosen, behaviour, directions, "test", temperature=0.0, max_rows=64, progress=done.append
    )
    assert {name: len(draws) for name, draws in scores_by_name.items()} == {"none": 1, "one": 1, "null": 2}
    assert sum(done) == rows_along(behaviour, directions, "test") == 4 * len(behaviour.test)
    # whatever its length, a direction is taken at the strength chosen, against the vector where so asked
    for name, draw, direction in (("one", 0, one), ("null", 0, first), ("null", 1, second)):
        unit = direction / direction.norm()
        (cell,) = model.conditions(name, unit, [0.5], behaviour.direction)
        alone = measure(story_lm, 1, behaviour, "test", behaviour.test, [cell])
        np.testing.assert_allclose(scores_by_name[name][draw], [m.value for m in alone], atol=1e-4)
    if behaviour.is_choice:
        assert np.abs(scores_by_name["one"][0] - scores_by_name["none"][0]).max() > 1e-3


def test_a_stopped_run_resumes(story_lm: LanguageModel, tmp_path: Path) -> None:
    behaviour = choice_behaviour()
    chosen = Chosen(StrengthChoice(0.5, 1.0, False, 1, 1), SteerableModel(story_lm, 1, 2.0), (), ())
    directions = {"one": [torch.randn(story_lm.width, generator=torch.Generator().manual_seed(0))]}

    def scores(progress: Callable[[int], None], file: Path | None) -> dict[str, list[Any]]:
        with Journal(file) as journal:
            return scores_along(
                chosen,
                behaviour,
                directions,
                "test",
                temperature=0.0,
                max_rows=4,
                progress=progress,
                journal=journal,
            )

    def stops(_rows: int) -> None:
        raise KeyboardInterrupt

    whole = scores(lambda _rows: None, None)
    file = tmp_path / "a.journal"
    with pytest.raises(KeyboardInterrupt):
        scores(stops, file)
    first = file.read_bytes()
    assert first.count(b"\n") == 1  # the first batch of several
    assert json.dumps(to_lists(scores(lambda _rows: None, file))) == json.dumps(to_lists(whole))
    assert file.read_bytes().startswith(first)
    with mock.patch("lrt.evaluation.resumable.measure", side_effect=AssertionError("measured again")):
        assert json.dumps(to_lists(scores(lambda _rows: None, file))) == json.dumps(to_lists(whole))


def to_lists(scores: dict[str, list[Any]]) -> dict[str, list[list[float]]]:
    return {name: [draw.tolist() for draw in draws] for name, draws in scores.items()}
