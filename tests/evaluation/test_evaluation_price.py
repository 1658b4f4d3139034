"""When a map pays: planted effects and costs whose break-even is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_behaviours import choice_behaviour, text_behaviour

from lrt.evaluation import Behaviour, Chosen, SteerableModel, StrengthChoice, StrengthGrid
from lrt.evaluation.equal_damage import strength_at_damage
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import Damage, damage, measure
from lrt.evaluation.price import (
    DAMAGE_TEXTS,
    PricedScores,
    break_even,
    price_rows,
    price_scores,
    shares_of,
)
from lrt.models import LanguageModel

ITEMS, KEYS = 40, ("A", "B") * 20
TOKENS = {4: 80.0, 8: 160.0, 32: 640.0, 100: 2000.0}


def scores(
    *, noise: float = 0.05, draws: int = 4, direction: int = 1, unsteered: float = 0.2, **effects: float
) -> dict[str, np.ndarray]:
    """Scores of planted mean effects by condition; `native_8` stands for the condition `native 8`."""
    rng = np.random.default_rng(0)
    by_condition = {"none": np.full((1, ITEMS), unsteered)}
    for name, effect in effects.items():
        count = 1 if name in ("native", "transferred") else draws
        drawn = unsteered + direction * effect + noise * rng.standard_normal((count, ITEMS))
        by_condition[name.replace("_", " ")] = drawn
    return by_condition


@pytest.mark.parametrize("direction", [1, -1])
def test_shares_are_of_the_native_vector_from_all_pairs(direction: int) -> None:
    planted = scores(native=1.0, transferred=0.8, native_4=0.5, direction=direction)
    shares = shares_of(planted, KEYS, direction)
    assert shares is not None
    assert shares.values["native"] == 1.0
    for name, share in (("transferred", 0.8), ("native 4", 0.5)):
        assert shares.values[name] == pytest.approx(share, abs=0.03)
        low, high = shares.interval(name)
        assert low < share < high
        assert high - low < 0.2


def test_draws_of_the_pairs_that_differ_widen_the_interval() -> None:
    planted = scores(native=1.0, transferred=0.8, native_4=0.5)
    alike = shares_of(planted, KEYS, 1)
    planted["native 4"] = planted["native 4"] + np.array([-0.4, 0.4, -0.3, 0.3])[:, None]
    unlike = shares_of(planted, KEYS, 1)
    assert alike is not None
    assert unlike is not None
    (low, high), (lower, higher) = alike.interval("native 4"), unlike.interval("native 4")
    assert higher - lower > 5 * (high - low)
    assert unlike.values["native 4"] == pytest.approx(alike.values["native 4"])


@pytest.mark.parametrize("native", [0.0, -1.0])
def test_where_the_native_vector_does_not_steer_there_are_no_shares(native: float) -> None:
    assert shares_of(scores(native=native, transferred=0.8), KEYS, 1) is None


def pays(**effects: float):
    shares = shares_of(scores(native=1.0, **effects), KEYS, 1)
    assert shares is not None
    return break_even(shares, TOKENS, 100, 10_000)


def test_a_map_pays_once_native_vectors_of_equal_effect_cost_more() -> None:
    """Native vectors of 8 pairs do as much and cost 160 tokens: 62 of them cost 9,920, and 63 cost 10,080."""
    at = pays(transferred=0.6, native_4=0.3, native_8=0.7, native_32=0.9)
    assert (at.pairs, at.tokens, at.vectors, at.bound) == (8, 160, 63, "")
    assert at.interval == (63, 63)
    exact = break_even(
        shares_of(scores(native=1.0, transferred=0.6, native_8=0.7), KEYS, 1), TOKENS, 100, 160 * 62
    )
    assert exact.vectors == 63  # 62 cost the same, and the map is to be cheaper


def test_the_fewest_and_all_pairs_bound_it() -> None:
    low = pays(transferred=0.2, native_4=0.3, native_8=0.7)
    assert (low.pairs, low.vectors, low.bound) == (4, 126, "at least")
    high = pays(transferred=1.3, native_4=0.3, native_8=0.7)
    assert (high.pairs, high.vectors, high.bound) == (100, 6, "at most")
    only = break_even(shares_of(scores(native=1.0, transferred=0.5), KEYS, 1), {100: 2000.0}, 100, 10_000)
    assert (only.pairs, only.vectors, only.bound) == (100, 6, "at least")  # fewer pairs were not tried
    all_pairs = pays(transferred=0.9, native_4=0.3, native_8=0.7)  # all do more, and all are known
    assert (all_pairs.pairs, all_pairs.bound) == (100, "")


@pytest.mark.parametrize("transferred", [0.0, -0.5])
def test_a_map_whose_vectors_do_nothing_never_pays(transferred: float) -> None:
    at = pays(transferred=transferred, native_4=0.3, native_8=0.7)
    assert (at.pairs, at.tokens, at.vectors) == (None, None, None)
    assert at.interval[1] is None


def test_uncertain_pairs_make_an_uncertain_number_of_vectors() -> None:
    planted = scores(native=1.0, transferred=0.6, native_4=0.3, native_8=0.6, native_32=0.9)
    planted["native 8"] = planted["native 8"] + np.array([-0.2, 0.2, -0.1, 0.1])[:, None]
    shares = shares_of(planted, KEYS, 1)
    assert shares is not None
    low, high = break_even(shares, TOKENS, 100, 10_000).interval
    assert low is not None
    assert high is not None
    assert low == 10_000 // 640 + 1
    assert high >= 63


@pytest.mark.parametrize(
    ("level", "strength"),
    [(0.05, 0.25), (0.1, 0.5), (0.2, 0.75), (0.5, 1.0)],  # of a level that is not reached, the last one
)
def test_the_strength_of_a_damage_is_interpolated(level: float, strength: float) -> None:
    assert strength_at_damage([(1.0, 0.3), (0.5, 0.1)], level) == pytest.approx(strength)


def test_of_a_curve_that_falls_the_first_strength_counts() -> None:
    assert strength_at_damage([(0.5, 0.2), (1.0, 0.1), (2.0, 0.4)], 0.1) == pytest.approx(0.25)
    assert strength_at_damage([(0.5, -0.1), (1.0, 0.1)], 0.1) == pytest.approx(1.0)


def test_a_strength_that_breaks_the_model_is_not_reached() -> None:
    broken = Damage("any", "native 4", 0, 1.0, math.nan, math.nan, math.nan).relative
    assert strength_at_damage([(0.5, 0.02), (1.0, broken), (2.0, broken)], 0.1) == 0.5


GRID = StrengthGrid(strengths=(0.0, 0.1, 0.25, 0.5, 1.0, 2.0))


@pytest.mark.parametrize("behaviour", [choice_behaviour(direction=-1), text_behaviour()])
def test_scores_are_those_of_the_engine(behaviour: Behaviour, story_lm: LanguageModel) -> None:
    model = SteerableModel(story_lm, 1, 40.0)
    chosen = Chosen(StrengthChoice(0.5, 1.0, False, 1, 1), model, (), ())
    generator = torch.Generator().manual_seed(0)
    native, other, one, two = (torch.randn(story_lm.width, generator=generator) for _ in range(4))
    vectors = {"native": [native], "transferred": [3 * native], "native 4": [other], "native 8": [one, two]}
    done: list[int] = []
    found = price_scores(
        chosen, behaviour, vectors, GRID, "test", temperature=0.0, max_rows=64, progress=done.append
    )
    assert sum(done) <= price_rows(behaviour, vectors, "test")
    assert {name: array.shape for name, array in found.chosen.items()} == {
        name: (len(vectors.get(name, "1")), len(behaviour.test)) for name in ("none", *vectors)
    }

    def unit(vector: torch.Tensor) -> torch.Tensor:
        return vector / vector.norm()

    def score(vector: torch.Tensor, strength: float) -> list[float]:
        (cell,) = model.conditions("any", unit(vector), [strength], behaviour.direction)
        return [m.value for m in measure(story_lm, 1, behaviour, "test", behaviour.test, [cell])]

    np.testing.assert_allclose(found.chosen["native 8"][1], score(two, 0.5), atol=1e-4)
    # the same direction is the same condition, whatever its length
    np.testing.assert_allclose(found.chosen["transferred"], found.chosen["native"], atol=1e-4)
    assert (found.damage > 0) == (not behaviour.is_choice)  # both ways are seen
    if found.damage > 0:
        assert found.equal_damage is not None
        assert found.strengths["native"] == 0.5
        assert found.strengths["transferred"] == pytest.approx(0.5, abs=1e-3)
        at = found.strengths["native 4"]
        assert 0.25 / 2 < at <= 1.0
        np.testing.assert_allclose(found.equal_damage["native 4"][0], score(other, at), atol=1e-4)
        if 0.25 < at < 1.0:
            cell = model.conditions("any", unit(other), [at], behaviour.direction)
            (at_level,) = damage(story_lm, 1, behaviour, "test", cell)
            assert at_level.relative == pytest.approx(found.damage, rel=0.5)
    assert len(behaviour.damage_texts) <= DAMAGE_TEXTS


def test_a_stopped_run_resumes_with_the_same_scores(story_lm: LanguageModel, tmp_path: Path) -> None:
    behaviour = choice_behaviour()
    chosen = Chosen(StrengthChoice(0.5, 1.0, False, 1, 1), SteerableModel(story_lm, 1, 2.0), (), ())
    vectors = {"native": [torch.randn(story_lm.width, generator=torch.Generator().manual_seed(0))]}

    def priced(file: Path | None, stop: bool = False) -> PricedScores:
        def progress(_rows: int) -> None:
            if stop:
                raise KeyboardInterrupt

        with Journal(file) as journal:
            return price_scores(
                chosen,
                behaviour,
                vectors,
                GRID,
                "test",
                temperature=0.0,
                max_rows=4,
                progress=progress,
                journal=journal,
            )

    file = tmp_path / "a.journal"
    with pytest.raises(KeyboardInterrupt):
        priced(file, stop=True)
    whole = priced(None).to_data()
    assert priced(file).to_data() == whole
    assert PricedScores.from_data(whole).to_data() == whole
