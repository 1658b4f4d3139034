import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, LayerConcat, Moments, of_layers


def test_parts_are_the_layers_in_their_order() -> None:
    stack = LayerConcat((4, 1), 3)
    row = torch.arange(6.0)
    assert stack.total == 6
    assert stack.part(row, 4).tolist() == [0, 1, 2]
    assert stack.part(row[None], 1).tolist() == [[3, 4, 5]]
    assert stack.alone(row, 1).tolist() == [0, 0, 0, 3, 4, 5]


def test_error_along_a_layers_own_vector_is_that_layers_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(500, 4, generator=generator), torch.randn(500, 6, generator=generator)
    stack, v = LayerConcat((2, 5), 3), torch.randn(6, generator=generator)
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
    columns = LayerConcat((7, 3, 5), 2).columns_of((5, 7))  # in the order of the argument
    assert columns.tolist() == [4, 5, 0, 1]
    part.update(x[:, columns], y[:, [3, 1]])
    found = whole.part(columns, torch.tensor([3, 1]))
    for name in ("mean_x", "mean_y", "scatter_xx", "scatter_xy", "scatter_yy"):
        torch.testing.assert_close(getattr(found, name), getattr(part, name), rtol=1e-9, atol=1e-9)


def test_impossible_stacks() -> None:
    for layers in ((), (1, 1)):
        with pytest.raises(InvalidValue):
            LayerConcat(layers, 3)
    with pytest.raises(ValueError, match="layer 3"):
        LayerConcat((1, 2), 3).columns(3)


@given(st.permutations([7, 3, 5]), st.integers(1, 3), st.permutations([2, 9]), st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_moments_of_layers_are_those_of_their_columns(
    source_order: list[int], sources: int, target_order: list[int], targets: int
) -> None:
    source, target = LayerConcat((7, 3, 5), 2), LayerConcat((2, 9), 3)
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(40, 6, generator=generator) + 3, torch.randn(40, 6, generator=generator)
    wanted, other = tuple(source_order[:sources]), tuple(target_order[:targets])
    whole = Moments(6, 6, products="float64")
    whole.update(x, y)
    found = of_layers(whole, (source, target), wanted, other)
    # whichever way they were copied, the sums are the same bits
    gathered = whole.part(source.columns_of(wanted), target.columns_of(other))
    for name, sums in gathered.tensors().items():
        assert torch.equal(found.tensors()[name], sums), name
    direct = Moments(2 * sources, 3 * targets, products="float64")
    direct.update(
        torch.cat([source.part(x, layer) for layer in wanted], 1),
        torch.cat([target.part(y, layer) for layer in other], 1),
    )
    torch.testing.assert_close(found.scatter_xy, direct.scatter_xy, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.mean_y, direct.mean_y, rtol=1e-9, atol=1e-9)
    assert (found is whole) == ((wanted, other) == (source.layers, target.layers))


def test_moments_of_layers_that_are_not_there() -> None:
    stacks = LayerConcat((7, 3), 2), LayerConcat((2,), 3)
    for source, target, wrong in (
        ((7, 4), (2,), "layer 4"),
        ((7,), (3,), "layer 3"),
        ((), (2,), r"layers=\[\]"),
        ((3, 3), (2,), r"layers=\[3, 3\]"),
    ):
        with pytest.raises(ValueError, match=wrong):
            of_layers(Moments(4, 3), stacks, source, target)
    with pytest.raises(ValueError, match=r"4 -> 4.* 4 -> 3"):
        of_layers(Moments(4, 4), stacks, (7,), (2,))
