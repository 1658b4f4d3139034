from dataclasses import replace

import pytest
import torch

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, LayerConcat
from lrt.steering import Mapping, SteeringVector, difference_of_means


def mapping(dtype: torch.dtype = torch.float32) -> Mapping:
    """Source layers 1 and 2 of width 5 to target layers 9 and 4 of width 7."""
    generator = torch.Generator().manual_seed(0)
    affine = AffineMap(
        torch.randn(14, 10, generator=generator, dtype=dtype), 50 * torch.ones(14, dtype=dtype)
    )
    target = LayerConcat((9, 4), 7)
    return Mapping(affine, LayerConcat((1, 2), 5), target, "small", "large", {4: 8.0, 9: 3.0}, "abc")


def vectors(difference: torch.Tensor) -> list[SteeringVector]:
    parts = zip((1, 2), difference.split(5), strict=True)
    return [SteeringVector(part, layer, "small", 2.0, "french", prompts="digest") for layer, part in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bias_cancels_out_of_a_difference_of_means(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    positives, negatives = (torch.randn(30, 10, generator=generator) for _ in range(2))
    map_ = mapping(dtype)
    exact = difference_of_means(map_.affine.points(positives), map_.affine.points(negatives))
    own = vectors(difference_of_means(positives, negatives))
    for layer, columns in ((9, slice(0, 7)), (4, slice(7, 14))):
        transferred = map_.transfer(own, layer)
        assert transferred.direction.dtype == torch.float32
        torch.testing.assert_close(transferred.direction, exact[columns], rtol=1e-4, atol=1e-5)


def test_paper_literal_adds_the_bias() -> None:
    map_, own = mapping(), vectors(torch.ones(10))
    plain, literal = (map_.transfer(own, 4, paper_literal=paper) for paper in (False, True))
    torch.testing.assert_close(literal.direction - plain.direction, map_.affine.bias[7:])
    assert plain.map is not None
    assert literal.map is not None
    assert (plain.map["reading"], literal.map["reading"]) == ("W v", "A v + p")
    # so long a bias decides the direction of the literal vector
    assert float(literal.unit_direction @ torch.nn.functional.normalize(map_.affine.bias[7:], dim=0)) > 0.9


def test_a_transferred_vector_records_its_provenance() -> None:
    vector = mapping().transfer(vectors(torch.ones(10)), 4)
    assert (vector.layer, vector.model, vector.residual_norm) == (4, "large", 8.0)
    assert (vector.behaviour, vector.prompts) == ("french", "digest")
    assert vector.map == {
        "fingerprint": "abc",
        "from_model": "small",
        "from_layers": [1, 2],
        "reading": "W v",
    }
    assert float(vector.scaled().norm()) == pytest.approx(8.0, rel=1e-5)
    refit = mapping().with_affine(AffineMap(torch.zeros(14, 10), torch.zeros(14)), "refit")
    assert not refit.transfer(vectors(torch.ones(10)), 4).direction.any()
    assert refit.transfer(vectors(torch.ones(10)), 4).map == {**vector.map, "fingerprint": "refit"}


def test_between_single_layers_no_layer_needs_to_be_named() -> None:
    affine = AffineMap(torch.eye(5), torch.zeros(5))
    map_ = Mapping(affine, LayerConcat((3,), 5), LayerConcat((9,), 5), "small", "large", {9: 3.0})
    vector = map_.transfer(SteeringVector(torch.arange(5.0), 3, "small", 2.0))
    assert vector.layer == 9
    torch.testing.assert_close(vector.direction, torch.arange(5.0))


def test_a_transferred_vector_is_in_the_target_s_unit_whatever_the_source_s_was() -> None:
    affine = AffineMap(torch.eye(5), torch.zeros(5))
    map_ = Mapping(affine, LayerConcat((3,), 5), LayerConcat((9,), 5), "small", "large", {9: 3.0})
    read = SteeringVector(torch.ones(5), 3, "small", 2.0, unit="length in the file it was read from")
    vector = map_.transfer(read)
    assert (vector.unit, vector.residual_norm) == ("median residual norm", 3.0)


def test_vectors_that_the_map_does_not_read_are_refused() -> None:
    map_, own = mapping(), vectors(torch.ones(10))
    narrow = replace(own[1], direction=torch.ones(4))
    wrong: list[list[SteeringVector]] = [
        own[:1],
        own[::-1],
        [own[0], replace(own[1], layer=3)],
        [own[0], replace(own[1], model="medium")],
        [own[0], narrow],
    ]
    for each in wrong:
        with pytest.raises(InvalidValue):
            map_.transfer(each, 4)
    for layer in (None, 5):
        with pytest.raises(InvalidValue, match=r"\[9, 4\]"):
            map_.transfer(own, layer)


def test_a_map_must_have_its_layers_widths_and_norms() -> None:
    map_ = mapping()
    for wrong in (
        {"source": LayerConcat((1,), 5)},
        {"target": LayerConcat((9,), 7)},
        {"residual_norms": {9: 1.0}},
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            replace(map_, **wrong)
