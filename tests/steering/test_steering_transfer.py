import pytest
import torch

from lrt.mapping import AffineMap
from lrt.steering import SteeringVector, difference_of_means, transfer


def affine(dtype: torch.dtype = torch.float32) -> AffineMap:
    generator = torch.Generator().manual_seed(0)
    return AffineMap(torch.randn(7, 5, generator=generator, dtype=dtype), 50 * torch.ones(7, dtype=dtype))


def carried(vector: SteeringVector, map_: AffineMap, **options: bool) -> SteeringVector:
    (found,) = transfer([vector], map_, model="large", residual_norms={9: 8.0}, fingerprint="abc", **options)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bias_cancels_out_of_a_difference_of_means(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    positives, negatives = (torch.randn(30, 5, generator=generator) for _ in range(2))
    map_ = affine(dtype)
    found = SteeringVector(difference_of_means(positives, negatives), 3, "small", 2.0, "french")
    exact = difference_of_means(map_.points(positives), map_.points(negatives))
    torch.testing.assert_close(carried(found, map_).direction, exact, rtol=1e-4, atol=1e-5)


def test_paper_literal_adds_the_bias_and_says_so() -> None:
    vector, map_ = SteeringVector(torch.ones(5), 3, "small", 2.0, "french"), affine()
    plain, literal = carried(vector, map_), carried(vector, map_, paper_literal=True)
    torch.testing.assert_close(literal.direction - plain.direction, map_.bias)
    assert plain.map is not None
    assert literal.map is not None
    assert (plain.map["reading"], literal.map["reading"]) == ("W v", "A v + p")
    # so long a bias decides where the literal vector points
    assert float(literal.unit_direction @ torch.nn.functional.normalize(map_.bias, dim=0)) > 0.9


def test_it_lives_in_the_target_and_tells_where_it_is_from() -> None:
    vector = SteeringVector(torch.ones(5), 3, "small", 2.0, "french", prompts="digest")
    image = carried(vector, affine())
    assert (image.layer, image.model, image.residual_norm) == (9, "large", 8.0)
    assert (image.behaviour, image.prompts) == ("french", "digest")
    assert image.map == {
        "fingerprint": "abc",
        "from_model": "small",
        "from_layers": [3],
        "reading": "W v",
    }
    assert float(image.scaled().norm()) == pytest.approx(8.0, rel=1e-5)


def test_a_vector_of_another_width_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'french' of small has 4 entries over its 1 layers, the map takes 5"
    ):
        carried(SteeringVector(torch.ones(4), 3, "small", 2.0, "french"), affine())


def test_several_layers_at_both_ends() -> None:
    map_ = affine()
    parts = [
        SteeringVector(v, layer, "small", 2.0, "french")
        for layer, v in ((1, torch.ones(2)), (2, torch.arange(3.0)))
    ]
    whole = carried(SteeringVector(torch.tensor([1.0, 1, 0, 1, 2]), 3, "small", 2.0, "french"), map_)
    with pytest.raises(ValueError, match="7 entries, which 2 layers cannot share"):
        transfer(parts, map_, model="large", residual_norms={3: 1.0, 4: 2.0})
    cut = AffineMap(map_.weight[:6], map_.bias[:6])
    first, second = transfer(parts, cut, model="large", residual_norms={3: 1.0, 4: 2.0})
    torch.testing.assert_close(torch.cat([first.direction, second.direction]), whole.direction[:6])
    assert (first.layer, second.layer, second.residual_norm) == (3, 4, 2.0)
    assert first.map is not None
    assert first.map["from_layers"] == [1, 2]
