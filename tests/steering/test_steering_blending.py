"""A blend of a native and a transferred vector: at least as near to a known truth as either of them."""

import math

import pytest
import torch
from torch import Tensor

from lrt.steering import blend, difference_of_means, sampling_variance

WIDTH, REPEATS = 64, 200


def planted(
    pairs: int, error: float, spread: float = 1.0, seed: int = 0
) -> tuple[Tensor, list[tuple[Tensor, Tensor, float]]]:
    """A true vector of length 1; native vectors from random pairs, transferred ones with a random error of a
    length, and the native ones' variances. Dimensions vary unequally, as those of hidden states do."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -2, WIDTH)
    scales = spread * scales / scales.norm()
    truth = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
    drawn = []
    for _ in range(REPEATS):
        common = torch.randn(pairs, WIDTH, generator=generator)
        noise = torch.randn(pairs, WIDTH, generator=generator) * scales
        positives, negatives = common + truth + noise, common
        wrong = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
        variance = sampling_variance(positives, negatives)
        assert variance is not None
        drawn.append((difference_of_means(positives, negatives), truth + error * wrong, variance))
    return truth, drawn


def expected_errors(truth: Tensor, drawn: list[tuple[Tensor, Tensor, float]]) -> tuple[float, float, float]:
    """Mean squared errors of native, transferred and blended vectors."""

    def error(vectors: list[Tensor]) -> float:
        return sum(float((vector - truth).square().sum()) for vector in vectors) / len(vectors)

    native, transferred, _ = zip(*drawn, strict=True)
    blends = [blend(*each).vector for each in drawn]
    return error(list(native)), error(list(transferred)), error(blends)


@pytest.mark.parametrize("pairs", [4, 16, 64])
@pytest.mark.parametrize("error", [0.3, 1.0])
def test_the_error_of_a_blend_is_at_most_that_of_both(pairs: int, error: float) -> None:
    truth, drawn = planted(pairs, error)
    native, transferred, blended = expected_errors(truth, drawn)
    assert native == pytest.approx(1 / pairs, rel=0.15)  # spread^2 / pairs
    assert transferred == pytest.approx(error**2, rel=1e-3)
    best = 1 / (1 / native + 1 / transferred)  # of a weight that knows both
    assert best * 0.9 <= blended <= 1.02 * min(native, transferred)
    if 0.5 < native / transferred < 2:  # neither is enough alone
        assert blended < 0.75 * min(native, transferred)


def test_beside_a_far_better_transferred_vector_most_of_the_noise_is_gone() -> None:
    """There the weight is known too badly to equal the transferred vector."""
    truth, drawn = planted(4, 0.1)
    native, transferred, blended = expected_errors(truth, drawn)
    assert native > 20 * transferred
    assert blended < min(native / 5, 4 * transferred)


def test_a_random_direction_in_place_of_the_transferred_vector_gets_no_weight() -> None:
    """The negative control: the blend is the native vector, and no worse."""
    weights = []
    for pairs in (4, 64):
        truth, drawn = planted(pairs, 0.0)
        generator = torch.Generator().manual_seed(1)
        drawn = [
            (x, torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0), v)
            for x, _, v in drawn
        ]
        native, random, blended = expected_errors(truth, drawn)
        assert blended <= native < random
        weights.append(sum(blend(*each).weight for each in drawn) / len(drawn))
    assert 0.8 < weights[0] < weights[1]
    assert weights[1] > 0.99


def test_without_noise_it_is_the_native_vector_and_without_error_the_transferred_one() -> None:
    native, other = torch.tensor([1.0, 2.0]), torch.tensor([1.5, -1.0])
    exact = blend(native, other, 0.0)
    assert exact.weight == 1.0
    assert torch.equal(exact.vector, native)
    noisy = blend(native, other, 100.0)
    assert noisy.weight == 0.0
    assert torch.equal(noisy.vector, other)
    assert torch.equal(blend(native, native, 1.0).vector, native)


def test_prompts_that_are_drawn_together_count_as_one() -> None:
    """Answers alternate: the difference between the answers cancels in every two, and is no noise."""
    generator = torch.Generator().manual_seed(0)
    letter = torch.tensor([10.0, 0.0]) * torch.tensor([1.0, -1.0]).repeat(32)[:, None]
    positives, negatives = torch.randn(64, 2, generator=generator) + letter, torch.zeros(64, 2)
    alone, together = sampling_variance(positives, negatives), sampling_variance(positives, negatives, (2, 2))
    assert alone is not None
    assert together is not None
    assert alone > 20 * together
    assert together == pytest.approx(2 / 64, rel=0.4)


def test_the_variance_is_that_of_the_difference_over_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    for sides in ((8, 8), (8, 24)):
        draws = [[torch.randn(n, 5, generator=generator) for n in sides] for _ in range(400)]
        vectors = torch.stack([difference_of_means(*draw) for draw in draws])
        mean = sum(sampling_variance(*draw) or math.nan for draw in draws) / len(draws)
        assert mean == pytest.approx(float(vectors.var(dim=0).sum()), rel=0.1)
    assert sampling_variance(torch.ones(1, 3), torch.ones(1, 3)) is None


def test_other_widths_and_a_negative_variance_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        blend(torch.ones(2), torch.ones(3), 1.0)
    with pytest.raises(ValueError, match="variance"):
        blend(torch.ones(2), torch.ones(2), -1.0)
