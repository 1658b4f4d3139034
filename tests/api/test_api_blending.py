"""`lrt.blend`: a few prompts on the target, and a vector transferred from others."""

from dataclasses import replace

import pytest
from oracle_pair import LAYER, Oracle

import lrt
from lrt.api import FittedMap, InvalidValue, SteeringVector, blend, extract_vector


@pytest.fixture(scope="module")
def transferred(oracle: Oracle, fitted: FittedMap, prompts: tuple[list[str], list[str]]) -> SteeringVector:
    """From half of the prompts, on the source."""
    french, english = prompts
    return fitted.transfer(extract_vector(oracle.source, french[:16], english[:16], LAYER)).vector


def test_beside_an_exact_map_it_is_nearer_to_the_truth_than_few_prompts(
    oracle: Oracle, transferred: SteeringVector, prompts: tuple[list[str], list[str]]
) -> None:
    french, english = prompts
    truth = extract_vector(oracle.target, french, english, LAYER).direction
    few = extract_vector(oracle.target, french[16:20], english[16:20], LAYER).direction
    vector = lrt.blend(oracle.target, french[16:20], english[16:20], transferred)
    assert (vector.direction - truth).norm() < 0.7 * (few - truth).norm()
    assert (vector.model, vector.layer, vector.map) == (transferred.model, LAYER, transferred.map)
    assert "weight" in vector.method
    with lrt.steer(oracle.target, vector, strength=0.5):
        assert oracle.target.generate("Once", 2)


def test_more_prompts_count_for_more(
    oracle: Oracle, transferred: SteeringVector, prompts: tuple[list[str], list[str]]
) -> None:
    """Beside a vector that has nothing to do with the prompts."""
    french, english = prompts
    wrong = replace(transferred, direction=transferred.direction.flip(0))
    alike = []
    for count in (4, 24):
        native = extract_vector(oracle.target, french[:count], english[:count], LAYER)
        vector = blend(oracle.target, french[:count], english[:count], wrong)
        alike.append(float(vector.unit_direction @ native.unit_direction))
    assert alike[0] < alike[1]


def test_what_cannot_be_blended_is_refused(
    oracle: Oracle, transferred: SteeringVector, prompts: tuple[list[str], list[str]]
) -> None:
    french, english = prompts
    for few, vector, message in (
        (4, replace(transferred, model="another"), "another"),
        (16, transferred, "very prompts"),
        (1, transferred, "two"),
        (4, replace(transferred, direction=transferred.direction[:-1]), "width"),
    ):
        with pytest.raises(InvalidValue, match=message):
            blend(oracle.target, french[:few], english[:few], vector)
