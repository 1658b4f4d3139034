"""Maps of a grid of layers: each is the ridge map of its pair, and what its low rank loses is as stated."""

import pytest
import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import (
    AffineMap,
    FactoredMap,
    GridMoments,
    Moments,
    SharedRidge,
    fit_grid,
    merge_all,
    pair_of,
    ridge_path,
    shuffled_fvu,
)
from lrt.mapping.factored import factored_within
from lrt.mapping.reduced_rank import ReducedRank

LAYERS, WIDTHS = ((2, 5), (1, 4)), (12, 20)
RANK = 3
Rows = tuple[dict[int, Tensor], dict[int, Tensor]]


def rows(count: int, seed: int) -> Rows:
    """Target layer 1 is a map of rank 3 of source layer 2 and noise; the rest is a full mixture of all."""
    weights = torch.Generator().manual_seed(9)
    low = torch.randn(20, RANK, generator=weights) @ torch.randn(RANK, 12, generator=weights)
    mixture = torch.randn(20, 12, generator=weights)
    generator = torch.Generator().manual_seed(seed)
    first, noise = torch.randn(count, 12, generator=generator), torch.randn(count, 20, generator=generator)
    second = first + 0.5 * torch.randn(count, 12, generator=generator)
    return {2: first + 3, 5: second}, {1: first @ low.T + 0.3 * noise, 4: second @ mixture.T + noise - 2}


def summed(some: Rows, products: str = "float64") -> GridMoments:
    grid = GridMoments(LAYERS[0], WIDTHS[0], LAYERS[1], WIDTHS[1], products=products)  # type: ignore[arg-type]
    grid.update(*some)
    return grid


def fvu(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> float:
    error = x.double() @ weight.double().T + bias.double() - y.double()
    return float(error.square().sum() / (y.double() - y.double().mean(0)).square().sum())


@pytest.fixture(scope="module")
def held_out() -> tuple[Rows, Rows]:
    return rows(700, 7), rows(700, 8)


@pytest.fixture(scope="module")
def folds() -> list[GridMoments]:
    return [summed(rows(900, seed)) for seed in range(3)]


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.3])
def test_every_pair_loses_what_is_stated(
    folds: list[GridMoments], held_out: tuple[Rows, Rows], loss: float
) -> None:
    fitted = fit_grid(folds, *map(summed, held_out), loss)
    assert [*fitted] == [(s, t) for s in LAYERS[0] for t in LAYERS[1]]
    for (source, target), (stored, figures) in fitted.items():
        ridge = ridge_path(
            merge_all(pair_of(folds, source, target)), summed(held_out[0]).pair(source, target)
        )
        affine = stored.affine()
        for split, stated in ((0, figures.fvu_validation), (1, figures.fvu_full)):
            x, y = held_out[split][0][source], held_out[split][1][target]
            full = fvu(ridge.map.weight, ridge.map.bias, x, y)
            assert full == pytest.approx(stated, rel=1e-9)
            assert fvu(affine.weight, affine.bias, x, y) <= full + loss + 1e-7
        assert fvu(affine.weight, affine.bias, x, y) == pytest.approx(figures.fvu, rel=1e-6)
        assert figures.ridge_weight == ridge.weight
        assert torch.linalg.matrix_rank(affine.weight.double(), rtol=1e-5) == figures.rank == stored.rank
        change = (affine.weight - ridge.map.weight).norm() / ridge.map.weight.norm()
        assert figures.change == pytest.approx(float(change), rel=1e-6)
        assert figures.bytes == sum(each.nbytes for each in stored.tensors().values())


def test_a_planted_rank_is_found_and_stored_small(
    folds: list[GridMoments], held_out: tuple[Rows, Rows]
) -> None:
    _, figures = fit_grid(folds, *map(summed, held_out), 0.005)[2, 1]
    assert figures.rank == RANK
    assert figures.bytes == 4 * (RANK * (12 + 20) + 20)
    whole, full = fit_grid(folds, *map(summed, held_out), 0.0)[5, 4]
    assert full.rank == 12
    assert [*whole.tensors()] == ["weight", "bias"]  # its factors would be larger
    assert full.change < 1e-6


def test_one_rank_loses_little_on_all_held_out_rows() -> None:
    """Of the first rows rank 1 is best and rank 2 worst; the second rows need rank 2."""
    eye, zero = torch.eye(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    x = torch.randn(500, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 3:] = 0
    two = x * torch.tensor([1, 1, 0.01, 0, 0, 0, 0, 0, 0])
    held_out = [Moments(9, 9), Moments(9, 9)]
    held_out[0].update(x, x * torch.tensor([1, -1, 1, 0, 0, 0, 0, 0, 0]))
    held_out[1].update(two, two)
    ranks = ReducedRank(eye, eye, zero, zero, 0.0)
    full = AffineMap(eye, zero)
    stored = factored_within(0.01, full, ranks, held_out).affine()
    for moments in held_out:
        assert moments.fvu_of(stored) <= moments.fvu_of(full) + 0.01


def test_each_pair_has_its_null(folds: list[GridMoments], held_out: tuple[Rows, Rows]) -> None:
    test = summed(held_out[1])
    for (source, target), (_, figures) in fit_grid(folds, summed(held_out[0]), test, 0.0).items():
        train = merge_all(pair_of(folds, source, target))
        scored = test.pair(source, target)
        expected = shuffled_fvu(SharedRidge(train, scored), train, figures.ridge_weight, scored)
        assert figures.fvu_shuffled == expected
        assert figures.fvu_shuffled is not None
        assert figures.fvu_shuffled > 1


def test_a_map_of_other_numbers_is_refused() -> None:
    weight, bias = torch.ones(2, 3), torch.zeros(2)
    for one, other in ((weight / 0, bias), (weight, bias * torch.nan), (weight.double(), bias)):
        with pytest.raises(ValueError, match="finite"):
            FactoredMap((one,), other)


def test_a_map_is_restored_from_its_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    up, down, bias = (torch.randn(shape, generator=generator) for shape in ((5, 2), (2, 4), (5,)))
    for each in (FactoredMap((up, down), bias), FactoredMap((up @ down,), bias)):
        again = FactoredMap.from_tensors(each.tensors())
        assert torch.equal(again.affine().weight, each.affine().weight)
        assert torch.equal(again.affine().bias, bias)
        assert (each.d_source, each.d_target) == (4, 5)
    for factors in ((), (up, up), (up, down, down), (bias,), (down, up)):
        with pytest.raises(ValueError, match="no map"):
            FactoredMap(factors, bias)


def test_sums_that_make_no_map_are_refused(folds: list[GridMoments], held_out: tuple[Rows, Rows]) -> None:
    validation, test = map(summed, held_out)
    with pytest.raises(ValueError, match="loss"):
        fit_grid(folds, validation, test, -0.1)
    with pytest.raises(InvalidValue, match="no rows"):
        fit_grid([GridMoments(LAYERS[0], 12, LAYERS[1], 20)], validation, test, 0.1)
    constant = summed((held_out[1][0], dict.fromkeys(LAYERS[1], torch.ones(700, 20))))
    with pytest.raises(InvalidValue, match="vary"):
        fit_grid(folds, validation, constant, 0.1)
