import pytest
import torch

from lrt.mapping import AffineMap, Moments, Stack


def test_parts_are_the_layers_in_their_order() -> None:
    stack = Stack((4, 1), 3)
    row = torch.arange(6.0)
    assert stack.total == 6
    assert stack.part(row, 4).tolist() == [0, 1, 2]
    assert stack.part(row[None], 1).tolist() == [[3, 4, 5]]
    assert stack.alone(row, 1).tolist() == [0, 0, 0, 3, 4, 5]


def test_error_along_a_layers_own_vector_is_that_layers_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(500, 4, generator=generator), torch.randn(500, 6, generator=generator)
    stack, v = Stack((2, 5), 3), torch.randn(6, generator=generator)
    affine = AffineMap(torch.randn(6, 4, generator=generator), torch.zeros(6))
    whole = Moments(4, 6, products="float64")
    whole.update(x, y)
    for layer in stack.layers:
        columns = stack.columns(layer)
        part = Moments(4, 3, products="float64")
        part.update(x, y[:, columns])
        alone = AffineMap(affine.weight[columns], affine.bias[columns])
        assert whole.error_along(affine, stack.alone(v, layer)) == pytest.approx(
            part.error_along(alone, v[columns])
        )


def test_part_of_moments_is_the_moments_of_the_part() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(300, 5, generator=generator) + 3, torch.randn(300, 4, generator=generator)
    whole, part = Moments(5, 4, products="float64"), Moments(2, 3, products="float64")
    whole.update(x, y)
    part.update(x[:, 1:3], y[:, 1:])
    found = whole.part(slice(1, 3), slice(1, 4))
    assert (found.count, found.d_source, found.d_target) == (300, 2, 3)
    for name in ("mean_x", "mean_y", "scatter_xx", "scatter_xy", "scatter_yy"):
        torch.testing.assert_close(getattr(found, name), getattr(part, name), rtol=1e-9, atol=1e-9)


def test_a_part_of_columns_that_do_not_follow_each_other() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(300, 6, generator=generator) + 3, torch.randn(300, 4, generator=generator)
    whole, part = Moments(6, 4, products="float64"), Moments(4, 2, products="float64")
    whole.update(x, y)
    columns = Stack((7, 3, 5), 2).columns_of((5, 7))  # in the order asked for
    assert columns.tolist() == [4, 5, 0, 1]
    part.update(x[:, columns], y[:, [3, 1]])
    found = whole.part(columns, torch.tensor([3, 1]))
    for name in ("mean_x", "mean_y", "scatter_xx", "scatter_xy", "scatter_yy"):
        torch.testing.assert_close(getattr(found, name), getattr(part, name), rtol=1e-9, atol=1e-9)


def test_impossible_stacks() -> None:
    for layers in ((), (1, 1)):
        with pytest.raises(ValueError, match="each once"):
            Stack(layers, 3)
    with pytest.raises(ValueError, match=r"layer 3 is not in the stack of layers \[1, 2\]"):
        Stack((1, 2), 3).columns(3)
