import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_behaviours import choice_behaviour, text_behaviour
from whole_study import GRID, run

from lrt.errors import InvalidValue
from lrt.evaluation import (
    Behaviour,
    Chosen,
    Damage,
    Measurement,
    SteerableModel,
    SteeringCondition,
    StrengthGrid,
    choose_layer,
    choose_strength,
    study_rows,
    summarise,
)
from lrt.evaluation.directions import HALVES, HALVINGS, RESAMPLED
from lrt.evaluation.resumable import ResumableMeasuring
from lrt.evaluation.scorers import Answer
from lrt.models import LanguageModel


class TestGrid:
    @pytest.mark.parametrize("strengths", [(0.5, 1.0), (), (-1.0, 0.0), (0.0, 1.0, 0.5), (0.0, 0.5, 0.5)])
    @pytest.mark.parametrize("name", ["strengths", "ablation_fractions"])
    def test_bad_grids(self, name: str, strengths: tuple[float, ...]) -> None:
        with pytest.raises(InvalidValue, match=rf"evaluation\.grid\.{name}="):
            StrengthGrid(**{name: strengths})  # type: ignore[arg-type]

    def test_ablation_has_a_grid_of_its_own(self) -> None:
        grid = StrengthGrid((0.0, 0.2), ablation_fractions=(0.0, 1.0), damage_limit=0.3)
        adds = choice_behaviour()
        assert grid.of(adds) is grid
        assert grid.of(replace(adds, operation="ablate")) == StrengthGrid((0.0, 1.0), (0.0, 1.0), 0.3)

    def test_bad_limit(self) -> None:
        with pytest.raises(InvalidValue, match=r"damage_limit=0\.0"):
            StrengthGrid(damage_limit=0.0)


def test_conditions_scale_with_strength_norm_and_sign(story_lm: LanguageModel) -> None:
    unit = torch.eye(32)[0]
    one, two = SteerableModel(story_lm, 1, 5.0).conditions("x", unit, [0.0, 2.0], -1, draw=3)
    assert (one.condition, one.strength, one.draw) == ("x", 0.0, 3)
    assert not one.offset.any()
    assert torch.equal(two.offset, -10 * unit)


def planted(
    monkeypatch: pytest.MonkeyPatch,
    behaviour: Behaviour,
    change: dict[float, float],
    damages: dict[float, float],
) -> Any:
    """The choice by an engine that returns these changes and relative damages."""
    splits: list[str] = []

    def measure(*args: Any, **_: Any) -> list[Measurement]:
        _, _, b, split, items, cells = args
        splits.append(split)
        assert sorted(i.prompt for i in items) == sorted(i.prompt for i in b.development)
        return [
            Measurement(b.name, split, c.condition, c.draw, c.strength, i.id, i.key, 3 + change[c.strength])
            for i in items
            for c in cells
        ]

    def damage(
        _lm: Any, _layer: int, b: Behaviour, split: str, cells: Sequence[SteeringCondition]
    ) -> list[Damage]:
        assert split == "development"
        return [
            Damage(
                b.name,
                c.condition,
                c.draw,
                c.strength,
                2 + 2 * damages[c.strength],
                2 * damages[c.strength],
                0,
            )
            for c in cells
        ]

    module = sys.modules[ResumableMeasuring.__module__]
    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "damage", damage)
    model = SteerableModel(None, 0, 1.0)  # type: ignore[arg-type]
    result = choose_strength(behaviour, model, torch.ones(4), GRID)
    assert splits == ["development"]
    assert len(result.measurements) == len(behaviour.development) * len(GRID.strengths)
    assert len(result.damages) == len(GRID.strengths)
    return result.choice


def test_the_strongest_undamaged_strength_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    change = {-0.5: 9.0, 0.0: 0.0, 0.5: 1.0, 1.0: 2.0}
    mild = dict.fromkeys(change, 0.0)
    choice = planted(monkeypatch, choice_behaviour(), change, mild)
    assert (choice.strength, choice.change, choice.damaged, choice.tried) == (1.0, 2.0, False, 2)
    at_limit = planted(monkeypatch, choice_behaviour(), change, mild | {1.0: 0.099})
    assert at_limit.strength == 1.0
    over = planted(monkeypatch, choice_behaviour(), change, mild | {1.0: 0.11})
    assert (over.strength, over.change, over.damaged) == (0.5, 1.0, False)


def test_the_intended_direction_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    change = {-0.5: -9.0, 0.0: 0.0, 0.5: -1.0, 1.0: 2.0}
    mild = dict.fromkeys(change, 0.0)
    assert planted(monkeypatch, choice_behaviour(direction=-1), change, mild).strength == 0.5
    assert planted(monkeypatch, choice_behaviour(direction=1), change, mild).strength == 1.0


def test_where_every_strength_damages_the_mildest_is_chosen_and_flagged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change = {-0.5: 0.0, 0.0: 0.0, 0.5: 1.0, 1.0: 2.0}
    choice = planted(monkeypatch, choice_behaviour(), change, {-0.5: 0.0, 0.0: 0.0, 0.5: 0.4, 1.0: 0.3})
    assert (choice.strength, choice.damaged) == (1.0, True)


@pytest.mark.parametrize("direction", [1, -1])
def test_the_layer_whose_own_vector_does_most_is_chosen(
    monkeypatch: pytest.MonkeyPatch, direction: int
) -> None:
    """Layer 2 moves most, but with too much damage; layer 1 more than layer 0."""
    moves, harms = (1.0, 2.0, 9.0), (0.0, 0.05, 0.5)

    def measure(*args: Any, **_: Any) -> list[Measurement]:
        _, layer, b, split, items, cells = args
        return [
            Measurement(
                b.name,
                split,
                c.condition,
                0,
                c.strength,
                i.id,
                i.key,
                c.strength * moves[layer] * b.direction,
            )
            for i in items
            for c in cells
        ]

    def damage(
        _lm: Any, layer: int, b: Behaviour, split: str, cells: Sequence[SteeringCondition]
    ) -> list[Damage]:
        assert split == "development"
        return [Damage(b.name, "native", 0, c.strength, 1 + harms[layer], harms[layer], 0) for c in cells]

    module = sys.modules[ResumableMeasuring.__module__]
    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "damage", damage)
    candidates = [(SteerableModel(None, layer, 1.0), torch.ones(4)) for layer in range(3)]  # type: ignore[arg-type]
    result = choose_layer(choice_behaviour(direction=direction), candidates, GRID)
    assert result.model.layer == result.choice.layer == 1
    assert [layer for layer, *_ in result.choice.by_layer] == [0, 1, 2]
    changes = {layer: change for layer, change, _ in result.choice.by_layer}
    assert changes[1] == result.choice.change == pytest.approx(2.0 * direction)
    assert [steers for *_, steers in result.choice.by_layer].count(True) >= 1
    assert not result.choice.damaged


ANSWERED = replace(choice_behaviour(), name="answered", scorer=Answer(), max_new_tokens=3)


@pytest.mark.parametrize("behaviour", [choice_behaviour(), ANSWERED, text_behaviour()], ids=lambda b: b.name)
def test_a_study_measures_all_conditions(behaviour: Behaviour, story_lm: LanguageModel) -> None:
    rows: list[int] = []
    result, units = run(behaviour, story_lm, rows.append)
    at = result.choice.strength
    chosen = Chosen(result.choice, SteerableModel(story_lm, 1, 4.0), result.measurements, result.damages)
    chosen = replace(chosen, damages=tuple(d for d in result.damages if d.split == "development"))
    assert sum(rows) == study_rows(behaviour, chosen, units, GRID)
    test = [r for r in result.measurements if r.split == "test"]
    conditions = {(r.condition, r.draw, r.strength) for r in test}
    assert len(test) == len(conditions) * len(behaviour.test)  # every condition once on every item
    assert {r.item for r in test} == {i.id for i in behaviour.test}
    curve, nonzero = set(GRID.strengths), set(GRID.strengths) - {0.0}
    wanted = {("none", 0, 0.0), ("prompt", 0, 0.0)}
    wanted |= {("source", 0, s) for s in curve if s >= 0}
    wanted |= {(c, 0, s) for c in ("native", "transferred") for s in nonzero}
    wanted |= {("random", d, s) for d in (1, 2) for s in (nonzero if behaviour.has_answers else {at})}
    halves = {(c, d, at) for c in HALVES for d in range(2 * HALVINGS)}
    wanted |= halves if behaviour.has_answers else set()
    mild = [d.strength for d in chosen.damages if d.relative <= GRID.damage_limit]
    compared = {s for s in nonzero if 0 < s <= max(mild)} | {at}
    limited = ("paper_literal", "random", "bias", "other", "untrained_source", "shuffled")
    wanted |= {(c, 0, s) for c in limited for s in compared}
    wanted |= {("untrained_source", 1, s) for s in compared}  # each untrained source has its own curve
    wanted |= {("random", 0, s) for s in nonzero} if behaviour.has_answers else set()
    wanted |= {(c, d, at) for c in RESAMPLED for d in (0, 1)} | {("shuffled", 1, at)}
    assert conditions == wanted
    chosen_by = {(d.condition, d.strength) for d in result.damages if d.split == "development"}
    assert chosen_by == {("native", s) for s in curve}
    damaged = {(d.condition, d.strength) for d in result.damages if d.split == "test"}
    assert {(c, s) for c in ("native", "transferred") for s in nonzero} <= damaged
    assert {(c, s) for c in limited for s in compared} <= damaged
    of_untrained = {(d.draw, d.strength) for d in result.damages if d.condition == "untrained_source"}
    assert of_untrained == {(draw, s) for draw in (0, 1) for s in compared}

    values = {(r.condition, r.draw, r.strength, r.item): r.value for r in test}
    for item in behaviour.test:
        for s in nonzero:  # the identity map on the same model: transferred, native and source are one
            native = values["native", 0, s, item.id]
            assert values["transferred", 0, s, item.id] == pytest.approx(native, abs=1e-3)
            if s > 0:
                assert values["source", 0, s, item.id] == pytest.approx(native, abs=1e-3)
        assert values["source", 0, 0.0, item.id] == pytest.approx(values["none", 0, 0.0, item.id], abs=1e-3)
    development = {r.item for r in result.measurements if r.split == "development"}
    assert development == {i.id for i in behaviour.development}


def test_a_study_on_development_items_uses_no_test_item(story_lm: LanguageModel) -> None:
    behaviour, rows = choice_behaviour(), []
    result, units = run(behaviour, story_lm, rows.append, split="development")
    assert result.split == "development"
    assert {r.item for r in result.measurements} == {i.id for i in behaviour.development}
    damages = tuple(d for d in result.damages if d.condition == "native")
    chosen = Chosen(result.choice, SteerableModel(story_lm, 1, 4.0), (), damages)
    assert sum(rows) == study_rows(behaviour, chosen, units, GRID, "development")
    summary, on_test = (summarise(behaviour, each, GRID) for each in (result, run(behaviour, story_lm)[0]))
    assert summary["items"] == len(behaviour.development)
    assert summary["strength"] == on_test["strength"]  # is chosen alike
    at = result.choice.strength
    chosen_there = [r.value for r in result.measurements if (r.condition, r.strength) == ("native", at)]
    assert summary["native"] == pytest.approx(sum(chosen_there) / len(chosen_there))


def test_rows_of_a_batch_do_not_change_a_study(story_lm: LanguageModel) -> None:
    whole, _ = run(choice_behaviour(), story_lm)
    parts, _ = run(choice_behaviour(), story_lm, max_rows=7)
    assert parts.choice.strength == whole.choice.strength
    for one, other in zip(whole.measurements, parts.measurements, strict=True):
        assert (one.item, one.condition, one.strength) == (other.item, other.condition, other.strength)
        assert one.value == pytest.approx(other.value, abs=5e-4)
