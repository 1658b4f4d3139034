"""The analysis of price on a target whose states are the source's: a transferred vector is the native one."""

from dataclasses import replace
from unittest import mock

import pytest
from stages import Stages

from lrt.config import ConfigError, Price
from lrt.evaluation.price import price_scores
from lrt.evaluation.score_table import ScoreMissing

PRICED = {"price__counts": (4, 8, 16), "price__draws": 2}


@pytest.mark.slow
def test_of_an_image_few_transferred_pairs_do_what_few_native_ones_do(oracle: Stages) -> None:
    stages = oracle.but(**PRICED)
    stages.fitted()
    results = stages.analyses.results()
    assert "notes" not in results
    behaviours = {each["name"]: each for each in results["price"]["behaviours"]}
    assert set(behaviours) == {"capitals", "bravery"}
    for each in behaviours.values():
        assert (each["pairs"], each["counts_left_out"]) == (8, [16])
        assert each["map_tokens"] == sum(stages.corpus.tokens.__dict__.values())
        four, eight = each["few_shot"]
        assert (four["pairs"], eight["pairs"]) == (4, 8)
        assert four["cosines"]["native"] == pytest.approx(four["cosines"]["transferred"], abs=1e-3)
        assert eight["cosines"]["native"] == pytest.approx(1, abs=1e-5)
        # a half of the pairs is left for the transferred vector of a blend, and none beside all of them
        assert "blended" in four["cosines"]
        assert set(eight["cosines"]) == {"native", "transferred"}
        assert 0 < each["tokens"]["4"] < each["tokens"]["8"]
    for reading in ("chosen", "equal_damage"):
        bravery = behaviours["bravery"][reading]
        for pairs in ("", " 4", " 8"):
            of_kind = [bravery["shares"][kind + pairs]["value"] for kind in ("native", "transferred")]
            assert of_kind[0] == pytest.approx(of_kind[1], abs=1e-3)
        tokens = bravery["break_even"]["tokens"]
        assert bravery["break_even"]["vectors"] == behaviours["bravery"]["map_tokens"] // tokens + 1


def test_results_are_kept_and_the_settings_are_among_their_facts(oracle: Stages) -> None:
    stages = oracle.but(**PRICED, price__behaviours=("bravery",))
    stages.fitted()
    first = stages.analyses.results()
    assert [each["name"] for each in first["price"]["behaviours"]] == ["bravery"]
    known = stages.analysed()["price"]
    with mock.patch("lrt.pipeline.analyses.price.price_scores", side_effect=AssertionError("measured again")):
        assert stages.but().analyses.results() == first
    for setting in ({"price__draws": 3}, {"price__counts": (4,)}):
        stages.but(**setting).analyses.results()
        known += 1
        assert stages.analysed()["price"] == known


@pytest.mark.slow
def test_all_prompts_cost_more_than_all_pairs_where_one_side_is_longer(oracle: Stages) -> None:
    bravery = next(each for each in oracle.suite if each.name == "bravery")
    longer = replace(bravery, positives=bravery.positives[:6])
    stages = oracle.but(suite=(longer,), price__counts=(4, 6, 8), price__draws=2)
    stages.fitted()
    (priced,) = stages.analyses.results()["price"]["behaviours"]
    assert (priced["pairs"], priced["counts_left_out"]) == (6, [8])
    assert set(priced["tokens"]) == {"4", "6", "8"}
    assert priced["tokens"]["4"] < priced["tokens"]["6"] < priced["tokens"]["8"]
    assert [few["draws"] for few in priced["few_shot"]] == [2, 2]


def test_it_is_of_the_behaviours_that_are_evaluated(shared: Stages, caplog: pytest.LogCaptureFixture) -> None:
    one = shared.but(**PRICED, evaluation__behaviours=("bravery",))
    assert [b.name for b in one.analyses.wanted[0].behaviours] == ["bravery"]
    none = shared.but(**PRICED, evaluation__behaviours=("bravery",), price__behaviours=("capitals",))
    assert none.analyses.wanted == ()
    assert "analysis.price.behaviours=['capitals']" in caplog.text
    assert shared.analyses.wanted == ()


def test_a_behaviour_without_scores_is_a_note(oracle: Stages) -> None:
    stages = oracle.but(price__counts=(4,), price__draws=4)
    stages.fitted()
    missing = [ScoreMissing("capitals", "test"), mock.DEFAULT]
    with mock.patch("lrt.pipeline.analyses.price.price_scores", wraps=price_scores, side_effect=missing):
        price = stages.analyses.results()["price"]
    assert [each["name"] for each in price["behaviours"]] == ["bravery"]
    assert "capitals" in price["notes"]["capitals"]


@pytest.mark.parametrize("counts", [(4, 7), (2,), (8, 4), (4, 4)])
def test_counts_must_be_even_and_rise(counts: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"analysis\.price\.counts"):
        Price(counts, 4, ())
