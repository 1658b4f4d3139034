"""Every rule of what to try next, with a planted case in which it applies and one in which it does not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from planted_studies import CHANGES, GRID, planted_study
from small_behaviours import choice_behaviour, text_behaviour

from lrt.evaluation import (
    ModelStates,
    NativeTrials,
    PromptsRead,
    StrengthGrid,
    TransferFacts,
    Trial,
    transferred_trials,
)
from lrt.evaluation.native_next_steps import LAYERS_NAMED
from lrt.evaluation.next_steps import spread
from lrt.mapping import LayerConcat

TEXT, CHOICE = text_behaviour(), choice_behaviour()
FLAT = (Trial(2, 0.5, 0.0, -0.1, 0.1, 0.01), Trial(2, 1.0, -0.01, -0.1, 0.1, 0.02))
CLEAR = PromptsRead(20, 20, ((".", 20),), (("!", 12),), {2: 6.0})
# nothing is known but that it does not steer, at the one layer that there is
NOTHING = NativeTrials(TEXT, FLAT, GRID, CLEAR, [0.4] * 8, (), (0.0, -0.1, 0.1), {})


def rules(facts: NativeTrials | TransferFacts) -> dict[str, str]:
    """Rules that apply, with their suggestion."""
    return {step.rule: step.action for step in facts.steps()}


def tried(*trials: tuple[int, float, float, float, float, float], **facts: Any) -> dict[str, str]:
    return rules(replace(NOTHING, trials=tuple(Trial(*trial) for trial in trials), **facts))


def test_a_clear_vector_without_effect_was_read_at_the_wrong_place_or_layer() -> None:
    assert list(rules(NOTHING)) == ["another position"]
    (step,) = NOTHING.steps()
    assert "'.'" in step.because
    assert "'!'" in step.because


def test_an_effect_that_grows_undamaged_asks_for_larger_strengths() -> None:
    growing = ((2, 0.5, 0.1, -0.3, 0.5, 0.01), (2, 1.0, 0.2, -0.2, 0.6, 0.03))
    suggestions = tried(*growing)
    assert suggestions["grows with the strength"] == (
        "larger strengths: evaluation.grid.strengths=[-1,0,0.5,1,1.5,2]"
    )
    StrengthGrid((-1.0, 0.0, 0.5, 1.0, 1.5, 2.0))  # is a grid
    # not where the largest is damaged, where it falls again, where it falls at once
    for last in ((2, 1.0, 0.2, -0.2, 0.6, 0.3), (2, 1.0, 0.05, -0.2, 0.3, 0.03)):
        assert "grows with the strength" not in tried(growing[0], last)
    assert "grows with the strength" not in tried((2, 0.5, -0.1, -0.3, 0.5, 0.01))


def test_growth_is_of_the_intended_direction_and_of_one_layer() -> None:
    lowered = replace(TEXT, direction=-1)
    falling = ((2, 0.5, -0.1, -0.5, 0.3, 0.01), (2, 1.0, -0.2, -0.6, 0.2, 0.03))
    assert "grows with the strength" in tried(*falling, behaviour=lowered)
    assert "grows with the strength" not in tried(*falling)
    two_layers = ((2, 1.0, -0.1, -0.5, 0.3, 0.01), (3, 1.0, 0.2, -0.2, 0.6, 0.03))
    assert "grows with the strength" in tried(*two_layers)


def test_an_ablation_removes_the_whole_component_at_most() -> None:
    ablated = replace(TEXT, operation="ablate")
    growing = ((2, 0.5, 0.1, -0.3, 0.5, 0.01), (2, 1.0, 0.2, -0.2, 0.6, 0.03))
    assert "grows with the strength" not in tried(*growing, behaviour=ablated)
    damaged = tried((2, 1.0, 0.2, 0.1, 0.6, 0.3), behaviour=ablated)
    assert "evaluation.grid.ablation_fractions" in damaged["damage before effect"]


def test_damage_before_effect_asks_for_other_layers_by_name() -> None:
    cut = ((2, 0.5, 0.0, -0.1, 0.1, 0.05), (2, 1.0, 0.9, 0.7, 1.1, 0.3))
    suggestions = tried(*cut, untried=(0, 1, 3))
    assert "recording.target=[0,1,3]" in suggestions["damage before effect"]
    assert "between 0.5 and 1" in suggestions["damage before effect"]
    assert "other layers" not in suggestions  # the same advice once
    assert "recording.target" not in tried(*cut)["damage before effect"]  # there are none
    every = tried((2, 0.5, 0.9, 0.7, 1.1, 0.2), (2, 1.0, 0.9, 0.7, 1.1, 0.3))
    assert every["damage before effect"] == "strengths below 0.5 (evaluation.grid.strengths)"
    assert "damage before effect" not in rules(NOTHING)


def test_layers_that_were_not_tried_are_named() -> None:
    suggestions = rules(replace(NOTHING, untried=(0, 1, 3)))
    assert suggestions["other layers"].startswith("layers.target=auto recording.target=[0,1,3] ")
    many = spread(range(40), LAYERS_NAMED)
    assert (len(many), many[0], many[-1]) == (LAYERS_NAMED, 0, 39)
    assert many == sorted(set(many))


@pytest.mark.parametrize("direction", [1, -1])
def test_a_change_against_the_direction(direction: int) -> None:
    against = (2, 1.0, *sorted((-0.5 * direction, -0.4 * direction, -0.6 * direction), key=abs)[1:2])
    low, high = sorted((-0.4 * direction, -0.6 * direction))
    behaviour = replace(TEXT, direction=direction)
    assert "moves against its direction" in tried((*against, low, high, 0.01), behaviour=behaviour)
    damaged = tried((*against, low, high, 0.5), behaviour=behaviour)
    assert "moves against its direction" not in damaged
    assert "moves against its direction" not in rules(replace(NOTHING, behaviour=behaviour))


def test_no_room_where_the_unsteered_model_shows_it_already() -> None:
    assert "no room on the scale" in rules(replace(NOTHING, unsteered=[1.0] * 7 + [0.9]))
    assert "no room on the scale" not in rules(replace(NOTHING, unsteered=[0.0] * 8))  # all the room
    lowered = replace(TEXT, direction=-1)
    assert "no room on the scale" in rules(replace(NOTHING, behaviour=lowered, unsteered=[0.0] * 8))
    probable = replace(NOTHING, behaviour=CHOICE, unsteered=[0.97] * 8)
    assert "no room on the scale" in rules(probable)
    assert "no room on the scale" not in rules(replace(probable, unsteered=[0.6] * 8))


def test_a_wide_interval_asks_for_as_many_items_as_would_do() -> None:
    # half of the interval is twice the change: four times the items
    suggestions = tried((2, 1.0, 0.1, -0.1, 0.3, 0.01))
    assert "about 32 " in suggestions["wide interval"]
    assert "wide interval" not in tried((2, 1.0, 0.01, -0.19, 0.21, 0.01))  # 3,200
    assert "wide interval" not in rules(NOTHING)


def test_an_effect_on_development_items_alone() -> None:
    steering = (2, 1.0, 0.5, 0.4, 0.6, 0.01)
    assert list(tried(steering)) == ["steers development items alone"]
    assert list(tried(steering, voiding={"random": 0.7})) == ["a null moves the score"]


def test_prompts_that_do_not_separate_ask_for_more() -> None:
    noisy = replace(NOTHING, prompts=replace(CLEAR, signal_to_noise={2: 1.1}))
    assert list(rules(noisy)) == ["few prompts"]
    one_each = replace(CLEAR, positives=1, negatives=1, signal_to_noise={2: None})
    assert list(rules(replace(NOTHING, prompts=one_each))) == ["few prompts"]
    # clear at one of two layers
    two = replace(NOTHING, trials=(*FLAT, Trial(3, 1.0, 0.0, -0.1, 0.1, 0.0)))
    assert list(rules(replace(two, prompts=replace(CLEAR, signal_to_noise={2: 1.1, 3: 6.0})))) == [
        "another position"
    ]


KNOWN = TransferFacts(
    TEXT,
    GRID,
    {"signal_to_noise": 12.0, "residual_on_prompts": 0.3},
    least_signal=5.0,
    most_residual=0.62,
    map={"name": "stories", "fvu": 0.3, "error_along": 0.2},
    source={"layer": 1, "steers": True},
    curve=(Trial(2, 0.5, 0.0, -0.1, 0.1, 0.01), Trial(2, 1.0, 0.0, -0.1, 0.1, 0.01)),
)


def test_no_cause_is_invented_for_a_transferred_vector() -> None:
    assert KNOWN.steps() == []
    unknown = replace(KNOWN, forecast={"warning": "no forecast"}, map=KNOWN.map | {"error_along": None})
    assert unknown.steps() == []


@pytest.mark.parametrize(
    ("known", "rule"),
    [
        ({"source": {"layer": 1, "steers": False}}, "the source is not steered"),
        ({"forecast": {"residual_on_prompts": 0.8}}, "text of another kind"),
        ({"forecast": {"signal_to_noise": 2.0}}, "too little text"),
        ({"map": {"name": "stories", "fvu": 0.3, "error_along": 0.7}}, "large error along the vector"),
        ({"whole_corpus_ci": (0.4, 0.8)}, "another map transfers it"),
        ({"curve": (Trial(2, 1.5, 0.5, 0.4, 0.6, 0.05),)}, "another strength"),
    ],
)
def test_what_is_known_of_a_transferred_vector_gives_its_suggestion(known: dict[str, Any], rule: str) -> None:
    assert list(rules(replace(KNOWN, **known))) == [rule]


@pytest.mark.parametrize(
    "known",
    [{"whole_corpus_ci": (-0.1, 0.8)}, {"curve": (Trial(2, 1.5, 0.5, 0.4, 0.6, 0.5),)}],
    ids=["no better", "damaged"],
)
def test_a_way_that_is_no_better_is_not_suggested(known: dict[str, Any]) -> None:
    assert replace(KNOWN, **known).steps() == []


def test_the_transferred_vector_at_every_positive_strength() -> None:
    trials = transferred_trials(planted_study(TEXT, changes=CHANGES | {"transferred": 0.4}))
    assert [(t.strength, pytest.approx(t.change), pytest.approx(t.damage)) for t in trials] == [
        (0.5, 0.2, 0.01),
        (1.0, 0.4, 0.02),
    ]
    assert all(trial.moves(1) and not trial.moves(-1) for trial in trials)


def states(positive: torch.Tensor, negative: torch.Tensor) -> ModelStates:
    return ModelStates(positive, negative, LayerConcat((4, 7), 3), "planted", {})


def test_signal_to_noise_is_the_length_over_its_standard_error() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 6, generator=generator), torch.randn(300, 6, generator=generator)
    apart = states(noise[0] + torch.tensor([3.0, 0, 0, 0, 0, 0]), noise[1])
    # a distance of 3 with three coordinates of variance 1 / 400 + 1 / 300
    assert apart.signal_to_noise(4) == pytest.approx(3 / (3 * (1 / 400 + 1 / 300)) ** 0.5, rel=0.1)
    assert apart.signal_to_noise(7) == pytest.approx(1.0, abs=0.7)  # by chance


def test_what_a_pair_has_in_common_is_no_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    question = 50 * torch.randn(40, 6, generator=generator)
    answers = question + torch.randn(40, 6, generator=generator) + 1.0
    paired, unpaired = states(answers, question), states(answers, question[:-1])
    assert paired.signal_to_noise(4) > 5 > 2 > unpaired.signal_to_noise(4)


def test_one_prompt_a_side_has_no_standard_error() -> None:
    assert states(torch.ones(1, 6), torch.zeros(1, 6)).signal_to_noise(4) is None
    assert states(torch.ones(2, 6), torch.zeros(2, 6)).signal_to_noise(4) is None  # nor have equal ones
