import pytest
import torch

from lrt.errors import InvalidValue
from lrt.mapping import Moments, SharedRidge, ridge_at, shuffled_fvu


def moments_of(x: torch.Tensor, y: torch.Tensor) -> Moments:
    moments = Moments(x.shape[1], y.shape[1], products="float64")
    moments.update(x, y)
    return moments


@pytest.mark.parametrize("weight", [0.0, 30.0])
def test_it_is_the_mean_over_permutations(weight: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(count, 6, generator=generator, dtype=torch.float64) * torch.arange(1, 7) + 3
        return x, x @ torch.ones(6, 4, dtype=torch.float64) + torch.randn(count, 4, generator=generator)

    (x, y), test = rows(40), moments_of(*rows(30))
    train = moments_of(x, y)
    expected = shuffled_fvu(SharedRidge(train, test), train, weight, test)
    assert expected is not None
    drawn = []
    for _ in range(300):
        order = torch.randperm(len(y), generator=generator)
        drawn.append(test.fvu_of(ridge_at(moments_of(x, y[order]), weight)))
    spread = torch.tensor(drawn).std() / len(drawn) ** 0.5
    assert abs(sum(drawn) / len(drawn) - expected) < 4 * float(spread)
    assert expected > 1


def test_rows_that_do_not_vary_are_named() -> None:
    x = torch.randn(20, 2, dtype=torch.float64)
    flat = moments_of(x, torch.ones(20, 2, dtype=torch.float64))
    with pytest.raises(InvalidValue, match="test rows"):
        shuffled_fvu(SharedRidge(moments_of(x, x), flat), moments_of(x, x), 1.0, flat)


def test_there_is_none_without_a_bias_and_for_rows_that_do_not_span() -> None:
    x = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    train, few = moments_of(x, x), moments_of(x[:5], x[:5])
    assert shuffled_fvu(SharedRidge(train, train, bias=False), train, 1.0, train) is None
    assert shuffled_fvu(SharedRidge(few, train), few, 0.0, train) is None
    assert shuffled_fvu(SharedRidge(few, train), few, 1.0, train) is not None
