"""Vectors from few contrastive pairs: which pairs are drawn, and what is made of them."""

import pytest
import torch

from lrt.evaluation import ContrastStates, ModelStates
from lrt.evaluation.few_shot import available_pairs, drawn_pairs, few_shot_vectors
from lrt.mapping import AffineMap, LayerConcat
from lrt.steering import Mapping, blend, difference_of_means

WIDTH, SCALE = 6, 2.0


def states(positive: int, negative: int, layers: tuple[int, ...] = (1,), scale: float = 1.0) -> ModelStates:
    generator = torch.Generator().manual_seed(0)
    sides = (scale * torch.randn(n, WIDTH * len(layers), generator=generator) for n in (positive, negative))
    return ModelStates(*sides, LayerConcat(layers, WIDTH), "model", dict.fromkeys(layers, 1.0))


def mapping(scale: float = SCALE) -> Mapping:
    affine = AffineMap(scale * torch.eye(WIDTH), torch.zeros(WIDTH))
    layers = LayerConcat((1,), WIDTH)
    return Mapping(affine, layers, layers, "model", "model", {1: 1.0})


@pytest.mark.parametrize(("positive", "negative"), [(16, 16), (16, 12), (15, 15), (9, 20)])
def test_pairs_are_drawn_once_and_the_others_are_left(positive: int, negative: int) -> None:
    both = states(positive, negative)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(8):
        drawn, others = drawn_pairs(both, 4, generator)
        for side, rest, prompts in zip(drawn, others, (positive, negative), strict=True):
            assert len(side) == 4
            # of an even number no neighbours are parted
            everything = sorted([*side.tolist(), *rest.tolist()])
            assert everything == list(range(prompts))
            if prompts % 2 == 0:
                assert {int(row) ^ 1 for row in side} == set(side.tolist())
        if positive == negative:
            assert torch.equal(*drawn)
        seen.add(tuple(drawn[0].tolist()))
    assert len(seen) > 1
    assert available_pairs(both) == min(positive, negative)
    with pytest.raises(ValueError, match="count=30"):
        drawn_pairs(both, 30, generator)


def test_vectors_are_those_of_the_pairs_drawn() -> None:
    source, target = states(16, 16), states(16, 16, scale=SCALE)
    contrast = ContrastStates("trait", source, target)
    four, eight, sixteen = few_shot_vectors(contrast, mapping(), 1, (4, 8, 16, 32), draws=3, seed=0)
    assert [few.count for few in (four, eight, sixteen)] == [4, 8, 16]  # of 32 pairs there are none
    assert [len(few.native) for few in (four, eight, sixteen)] == [3, 3, 1]  # all pairs are drawn once
    for few in (four, eight, sixteen):
        for (positive, negative), native, transferred in zip(
            few.pairs, few.native, few.transferred, strict=True
        ):
            own = difference_of_means(target.positive[positive], target.negative[negative])
            torch.testing.assert_close(native, own)
            torch.testing.assert_close(transferred, native)  # the map is exact
    assert [len(few.blended) for few in (four, eight, sixteen)] == [3, 3, 0]
    assert all(0 <= weight <= 1 for few in (four, eight) for weight in few.weights)
    torch.testing.assert_close(sixteen.native[0], target.difference())
    # draws of a count are the same whichever counts there are beside it
    (alone,) = few_shot_vectors(contrast, mapping(), 1, (8,), draws=3, seed=0)
    torch.testing.assert_close(torch.stack(alone.native), torch.stack(eight.native))
    assert set(four.directions()) == {"native 4", "transferred 4", "blended 4"}
    assert set(sixteen.directions()) == {"native 16", "transferred 16"}


def test_a_blend_is_between_the_native_vector_and_that_of_the_other_pairs() -> None:
    source, target = states(16, 16), states(16, 16, scale=SCALE)
    (few,) = few_shot_vectors(ContrastStates("trait", source, target), mapping(), 1, (8,), draws=2, seed=0)
    for (positive, _), native, blended, weight in zip(
        few.pairs, few.native, few.blended, few.weights, strict=True
    ):
        rest = torch.ones(16, dtype=torch.bool)
        rest[positive] = False
        other = SCALE * difference_of_means(source.positive[rest], source.negative[rest])
        torch.testing.assert_close(blended, weight * native + (1 - weight) * other)


def test_prompts_of_sides_of_other_lengths_are_no_pairs() -> None:
    """As many of either side are drawn, and their noise is that of two sides, each in its own groups."""
    source, target = states(9, 20), states(9, 20, scale=SCALE)
    (few,) = few_shot_vectors(ContrastStates("trait", source, target), mapping(), 1, (4,), draws=3, seed=0)
    assert len(few.weights) == 3
    for (positive, negative), native, blended, weight in zip(
        few.pairs, few.native, few.blended, few.weights, strict=True
    ):
        others = [
            torch.tensor([i for i in range(n) if i not in rows.tolist()])
            for n, rows in ((9, positive), (20, negative))
        ]
        transferred = SCALE * difference_of_means(source.positive[others[0]], source.negative[others[1]])
        # of the even side, neighbours were drawn together
        in_twos = target.negative[negative].double().reshape(2, 2, WIDTH).mean(dim=1)
        variance = sum(
            float(side.var(dim=0).sum()) / len(side) for side in (target.positive[positive].double(), in_twos)
        )
        wanted = blend(native, transferred, variance)
        assert weight == pytest.approx(wanted.weight)
        torch.testing.assert_close(blended, wanted.vector)
