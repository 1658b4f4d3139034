"""Stage 4: layer and strength at which a model's own vector steers best, on development items."""

import json
from dataclasses import replace
from unittest import mock

import pytest
import torch
from stages import Stages

from lrt.config import Layers
from lrt.evaluation import StrengthGrid
from lrt.pipeline import Choices
from lrt.storage.cache import CacheCorrupt

NEVER = AssertionError("steered again")


def test_an_image_is_steered_like_the_model_that_it_is_the_image_of(oracle: Stages) -> None:
    """The same logits at the same strength: both choose alike, and development scores agree."""
    for behaviour in oracle.suite:
        native, own = oracle.choices.of(behaviour), oracle.choices.of(behaviour, "source")
        assert native.choice.layer == own.choice.layer == 1
        scores = [
            {(row.item, row.strength): row.value for row in chosen.measurements if row.strength >= 0}
            for chosen in (native, own)
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-2)


def test_choices_are_made_once(shared: Stages) -> None:
    made = [shared.choices.of(b, side) for b in shared.suite for side in ("source", "target")]  # type: ignore[arg-type]
    before = shared.files("choices")
    again = shared.but().choices
    with mock.patch("lrt.pipeline.choices.choose_layer", side_effect=NEVER):
        read = [again.of(b, side) for b in shared.suite for side in ("source", "target")]  # type: ignore[arg-type]
    assert [chosen.choice for chosen in made] == [chosen.choice for chosen in read]
    assert [chosen.measurements for chosen in made] == [chosen.measurements for chosen in read]
    assert shared.files("choices") == before


def test_several_candidates_are_tried_and_a_layer_may_be_given(shared: Stages) -> None:
    stages = shared.but(layers=Layers(1, (1, 3)))
    behaviour = shared.suite[1]
    chosen = stages.choices.of(behaviour)
    assert chosen.choice.layer in (1, 3)
    assert [layer for layer, *_ in chosen.choice.by_layer] == [1, 3]
    assert stages.choices.of(behaviour, at=3).choice.layer == 3
    assert stages.choices.facts(behaviour, "target", 3) != stages.choices.facts(behaviour, "target")


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ({"evaluation__random_draws": 7}, True),
        ({"evaluation__eval_split": "development"}, True),
        ({"pool": 2}, True),
        ({"seed": 3}, True),
        ({"evaluation__temperature": 0.0}, False),
        ({"evaluation__grid": StrengthGrid(strengths=(0.0, 1.0))}, False),
        ({"evaluation__grid": StrengthGrid(strengths=(-1.0, 0.0, 0.5, 1.0), unit="absolute")}, False),
        ({"layers": Layers(1, 3)}, False),
    ],
)
def test_what_a_choice_depends_on(shared: Stages, setting: dict[str, object], same: bool) -> None:
    behaviour = shared.suite[0]
    one, other = (each.choices.facts(behaviour, "target") for each in (shared, shared.but(**setting)))
    assert (one == other) is same


def test_a_scorer_that_is_added_is_no_other_choice(shared: Stages) -> None:
    behaviour = shared.suite[0]
    scored = replace(behaviour, extra_scorers=(behaviour.scorer,))
    assert shared.choices.facts(scored, "target") == shared.choices.facts(behaviour, "target")


def test_absolute_strengths_are_the_length_of_what_is_added(shared: Stages) -> None:
    unit = torch.eye(48)[0]
    norm = shared.states.median_norms["target.2"]
    grid = shared.evaluation.grid
    for setting, strength, length in (("residual_norm", 0.5, norm), ("absolute", 0.5 * norm, 1.0)):
        stages = shared.but(evaluation__grid=replace(grid, unit=setting))
        model = stages.choices.steerable("target", 2)
        assert model.length == length
        (condition,) = model.conditions("native", unit, [strength], 1)
        torch.testing.assert_close(condition.offset, 0.5 * norm * unit)


def test_scores_along_directions_are_cached_by_the_directions(shared: Stages) -> None:
    behaviour, unit = shared.suite[1], torch.eye(48)
    choices = shared.choices

    def scores(choices: Choices, row: int) -> dict[str, list[list[float]]]:
        scored = choices.scores(behaviour, {"axis": [unit[row]]}, "test", "along an axis")
        return {name: [draw.tolist() for draw in draws] for name, draws in scored.items()}

    one = scores(choices, 0)
    assert {len(draw) for draws in one.values() for draw in draws} == {len(behaviour.test)}
    with mock.patch("lrt.pipeline.choices.scores_along", side_effect=NEVER):
        assert scores(shared.but().choices, 0) == one
    assert scores(choices, 1)["axis"] != one["axis"]


def test_a_damaged_choice_is_named(copied: Stages) -> None:
    behaviour = copied.suite[1]
    copied.choices.of(behaviour)
    (file,) = copied.files("choices")
    file.write_text(file.read_text()[:-20])
    with pytest.raises(CacheCorrupt, match=file.name):
        copied.but().choices.of(behaviour)
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps({**json.loads(first), "measurements": 0}), *rest]))
    with pytest.raises(CacheCorrupt, match=file.name):
        copied.but().choices.of(behaviour)
