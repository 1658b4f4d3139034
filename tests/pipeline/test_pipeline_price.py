"""The analysis of price on a target whose states are the source's: a transferred vector is the native one."""

import pytest
from stages import Stages

PRICED = {"price__counts": (4, 8, 16), "price__draws": 2}


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
        print(each)
