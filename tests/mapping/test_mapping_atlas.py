from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from summed_rows import moments_of
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import (
    AffineMap,
    AtlasCell,
    GridMoments,
    LayerConcat,
    Moments,
    SharedRidge,
    atlas,
    atlas_bytes,
    choose_layers,
    ridge_at,
    ridge_path,
)

SUMS = ("mean_x", "mean_y", "scatter_xx", "scatter_xy", "scatter_yy")
SOURCE, TARGET = LayerConcat((2, 5), 6), LayerConcat((1, 4, 7), 8)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def stacked_rows(generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Source layer 2 says all of target layer 1 by a map of rank 2 and some of layer 4 by a full one;
    target layer 7 is noise.
    """
    fixed = torch.Generator().manual_seed(99)
    low = normal(fixed, 8, 2) @ normal(fixed, 2, 6)
    full = normal(fixed, 8, 6)
    x = normal(generator, n, SOURCE.total) + 2
    first = SOURCE.part(x, 2)
    y = torch.cat(
        [
            first @ low.T + 0.05 * normal(generator, n, 8),
            first @ full.T + 2 * normal(generator, n, 8) - 3,
            normal(generator, n, 8) + 1,
        ],
        1,
    )
    return x, y


def by_layer(stacked: Tensor, stack: LayerConcat) -> dict[int, Tensor]:
    return {layer: stack.part(stacked, layer) for layer in stack.layers}


def grid_of(x: Tensor, y: Tensor, products: str = "float64") -> GridMoments:
    grid = GridMoments(SOURCE.layers, 6, TARGET.layers, 8, products=products)  # type: ignore[arg-type]
    grid.update(by_layer(x, SOURCE), by_layer(y, TARGET))
    return grid


def assert_same(found: Moments, wanted: Moments, tolerance: float = 1e-12) -> None:
    assert found.count == wanted.count
    for name in SUMS:
        gap = (getattr(found, name) - getattr(wanted, name)).norm()
        assert gap <= tolerance * getattr(wanted, name).norm()


@pytest.fixture(scope="module")
def rows() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [stacked_rows(generator, n) for n in (1500, 1000, 1000)]


@pytest.fixture(scope="module")
def vectors() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {name: (normal(generator, 12), normal(generator, 24)) for name in ("french", "mood")}


@pytest.fixture(scope="module")
def cells(rows: list[tuple[Tensor, Tensor]], vectors: dict[str, tuple[Tensor, Tensor]]) -> list[AtlasCell]:
    return atlas(*(moments_of(*each) for each in rows), SOURCE, TARGET, vectors)  # type: ignore[misc]


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    products=st.sampled_from(["float64", "float32"]),
    seed=st.integers(0, 2**20),
)
def test_pairs_of_a_grid_are_direct_moments(sizes: list[int], products: str, seed: int) -> None:
    x, y = stacked_rows(torch.Generator().manual_seed(seed), sum(sizes))
    grid = GridMoments(SOURCE.layers, 6, TARGET.layers, 8, products=products)  # type: ignore[arg-type]
    pair = Moments(6, 8, products=products)  # type: ignore[arg-type]
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        grid.update(by_layer(a, SOURCE), by_layer(b, TARGET))
        pair.update(SOURCE.part(a, 5), TARGET.part(b, 4))
    assert_same(grid.pair(5, 4), pair)
    assert grid.pair(5, 4).products == products


def test_rows_beyond_one_chunk_and_in_bfloat16() -> None:
    x, y = (each.bfloat16() for each in stacked_rows(torch.Generator().manual_seed(3), 9000))
    grid = grid_of(x, y, "float32")
    for s in SOURCE.layers:
        for t in TARGET.layers:
            assert_same(grid.pair(s, t), moments_of(SOURCE.part(x, s), TARGET.part(y, t)), 1e-5)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 199), min_size=1, max_size=4, unique=True), seed=st.integers(0, 2**20))
def test_merged_grids_are_the_grid_of_all_rows(cuts: list[int], seed: int) -> None:
    x, y = stacked_rows(torch.Generator().manual_seed(seed), 200)
    edges = [0, *sorted(cuts), 200]
    merged = GridMoments(SOURCE.layers, 6, TARGET.layers, 8, products="float64")
    for start, stop in pairwise(edges):
        merged = merged.merge(grid_of(x[start:stop], y[start:stop]))
    whole = grid_of(x, y)
    for s in SOURCE.layers:
        for t in TARGET.layers:
            assert_same(merged.pair(s, t), whole.pair(s, t))


def test_merging_leaves_both_grids_alone() -> None:
    x, y = stacked_rows(torch.Generator().manual_seed(4), 60)
    one, other = grid_of(x[:20], y[:20]), grid_of(x[20:], y[20:])
    merged = one.merge(other)
    merged.update(by_layer(x, SOURCE), by_layer(y, TARGET))
    assert (one.count, other.count, merged.count) == (20, 40, 120)
    assert_same(one.pair(2, 1), moments_of(x[:20, :6], y[:20, :8]))
    assert_same(merged.pair(2, 1), moments_of(x[:, :6], y[:, :8]).merge(moments_of(x[:, :6], y[:, :8])))


def test_tensors_give_the_grid_back_bit_for_bit() -> None:
    x, y = stacked_rows(torch.Generator().manual_seed(5), 50)
    grid = grid_of(x, y)
    again = GridMoments.from_tensors(grid.tensors())
    assert (again.source_layers, again.target_layers, again.products) == ((2, 5), (1, 4, 7), "float64")
    for name, tensor in grid.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
        assert again.tensors()[name] is not tensor
    incomplete = grid.tensors()
    del incomplete["sum_yy"]
    with pytest.raises(ValueError, match="sum_yy"):
        GridMoments.from_tensors(incomplete)


def test_memory_is_what_the_formula_says() -> None:
    for layers in ([0], [3, 1, 8]):
        grid = GridMoments(layers, 5, TARGET.layers, 7)
        held = sum(t.nbytes for name, t in grid.tensors().items() if name.startswith(("shift", "sum")))
        assert held == atlas_bytes(layers, 5, TARGET.layers, 7, copies=1)
    # 8 x 8 layers of 896 -> 1536, in float64.
    eight = range(8)
    one = atlas_bytes(eight, 896, eight, 1536, copies=1)
    numbers = 8 * 896**2 + 8 * 1536**2 + 64 * 896 * 1536 + 2 * 8 * (896 + 1536)
    assert one == 8 * numbers == 907_329_536
    # Ten folds, validation and test.
    assert atlas_bytes(eight, 896, eight, 1536, copies=12) == 12 * one < 24e9


@pytest.mark.parametrize("bias", [True, False])
def test_shared_decomposition_is_the_ridge_path_of_each_pair(
    rows: list[tuple[Tensor, Tensor]], bias: bool
) -> None:
    train, validation = moments_of(rows[0][0][:40], rows[0][1][:40]), moments_of(*rows[1])
    for s in SOURCE.layers:
        shared: SharedRidge | None = None
        for t in TARGET.layers:
            pair = [m.part(SOURCE.columns(s), TARGET.columns(t)) for m in (train, validation)]
            shared = shared or SharedRidge(*pair, bias=bias)
            found, wanted = shared.fit(*pair), ridge_path(*pair, bias=bias)
            assert found.weight == pytest.approx(wanted.weight, rel=1e-12)
            assert found.fvu_validation == pytest.approx(wanted.fvu_validation, rel=1e-10)
            torch.testing.assert_close(found.curve, wanted.curve, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(found.map.weight, wanted.map.weight, rtol=0, atol=1e-10)
            torch.testing.assert_close(found.map.bias, wanted.map.bias, rtol=0, atol=1e-10)


def test_cells_are_the_maps_of_each_pair(
    rows: list[tuple[Tensor, Tensor]], vectors: dict[str, tuple[Tensor, Tensor]], cells: list[AtlasCell]
) -> None:
    assert [(c.source_layer, c.target_layer) for c in cells] == [
        (s, t) for s in SOURCE.layers for t in TARGET.layers
    ]
    for cell in cells:
        s, t = cell.source_layer, cell.target_layer
        train, validation, test = (moments_of(SOURCE.part(x, s), TARGET.part(y, t)) for x, y in rows)
        fit = ridge_path(train, validation)
        assert cell.weight == pytest.approx(fit.weight)
        assert cell.fvu == pytest.approx(test.fvu_of(fit.map), rel=1e-8)
        assert set(cell.error_along) == set(cell.cosine) == {"french", "mood"}
        for name, (own, native) in vectors.items():
            v, wanted = SOURCE.part(own, s), TARGET.part(native, t)
            assert cell.error_along[name] == pytest.approx(test.error_along(fit.map, wanted), rel=1e-8)
            cosine = torch.cosine_similarity(fit.map.directions(v), wanted, dim=0)
            assert cell.cosine[name] == pytest.approx(float(cosine), abs=1e-8)


def test_the_planted_pair_stands_out(cells: list[AtlasCell]) -> None:
    by_pair = {(c.source_layer, c.target_layer): c for c in cells}
    assert by_pair[2, 1].fvu < 0.01
    assert 0.2 < by_pair[2, 4].fvu < 0.8
    for pair in ((5, 1), (5, 4), (5, 7), (2, 7)):
        assert by_pair[pair].fvu == pytest.approx(1.0, abs=0.03)
        assert by_pair[pair].cka < 0.03
    # Similarity is no measure of fit: of six directions that vary alike, layer 1 has only two.
    assert by_pair[2, 4].cka > by_pair[2, 1].cka > 0.3
    assert by_pair[2, 1].rank == 2
    assert by_pair[2, 4].rank > 2


def test_cka_is_that_of_the_rows(rows: list[tuple[Tensor, Tensor]], cells: list[AtlasCell]) -> None:
    """On the rows' own Gram matrices, which is how it is defined."""
    x, y = SOURCE.part(rows[0][0], 2), TARGET.part(rows[0][1], 4)
    own, native = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
    wanted = (own * native).sum() / (own.norm() * native.norm())
    assert cells[1].cka == pytest.approx(float(wanted), rel=1e-9)
    generator = torch.Generator().manual_seed(2)
    turned = torch.linalg.qr(normal(generator, 6, 6)).Q
    moments = moments_of(x, 3 * x @ turned + 1)
    cell = atlas(moments, moments, moments, LayerConcat((0,), 6), LayerConcat((0,), 6), {})[0]
    assert cell.cka == pytest.approx(1.0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wide", ["source", "target"])
def test_rank_is_that_of_projecting_the_map_rank_by_rank(wide: str, bias: bool) -> None:
    """Few rows, so that the best directions of training are not all so on the test rows."""
    generator = torch.Generator().manual_seed(7)
    d_source, d_target = (9, 5) if wide == "source" else (5, 9)
    weight = 3 * normal(generator, d_target, d_source) * torch.logspace(0, -1.3, d_source)
    train, test = (
        moments_of(x, x @ weight.T + 4 * normal(generator, n, d_target) + 2)
        for n, x in ((n, normal(generator, n, d_source) + 1) for n in (40, 500))
    )
    cell = atlas(train, test, test, LayerConcat((0,), d_source), LayerConcat((0,), d_target), {}, bias=bias)[
        0
    ]
    fitted = train if bias else train.about_origin()
    full = ridge_at(train, cell.weight, bias=bias)
    # The estimator from its definition, with a dense inverse.
    inverse = torch.linalg.inv(fitted.scatter_xx + cell.weight * torch.eye(d_source))
    order = torch.linalg.eigh(fitted.scatter_xy.T @ inverse @ fitted.scatter_xy).eigenvectors.flip(1)
    explained = []
    for rank in range(6):
        kept = order[:, :rank] @ order[:, :rank].T @ full.weight
        explained.append(1 - test.fvu_of(AffineMap(kept, fitted.mean_y - kept @ fitted.mean_x)))
    wanted = next(r for r, share in enumerate(explained) if share >= 0.95 * explained[-1])
    assert cell.rank == wanted
    assert 1 < wanted < 5


def test_a_map_that_explains_nothing_has_rank_zero() -> None:
    generator = torch.Generator().manual_seed(7)
    parts = [moments_of(normal(generator, 40, 4), normal(generator, 40, 5)) for _ in range(3)]
    cell = atlas(*parts, LayerConcat((0,), 4), LayerConcat((0,), 5), {})[0]  # type: ignore[misc]
    assert cell.fvu > 0.99
    assert cell.rank == 0


def test_a_grid_gives_the_cells_of_the_stack(
    rows: list[tuple[Tensor, Tensor]], vectors: dict[str, tuple[Tensor, Tensor]], cells: list[AtlasCell]
) -> None:
    calls = []
    grids = [grid_of(*each) for each in rows]
    found = atlas(*grids, SOURCE, TARGET, vectors, progress=lambda *at: calls.append(at))  # type: ignore[misc]
    assert calls == [(done, 6) for done in range(1, 7)]
    for cell, wanted in zip(found, cells, strict=True):
        assert cell.fvu == pytest.approx(wanted.fvu, rel=1e-9)
        assert cell.cka == pytest.approx(wanted.cka, rel=1e-9)
        assert cell.rank == wanted.rank
        assert cell.cosine == pytest.approx(wanted.cosine, abs=1e-9)


def test_one_eigendecomposition_for_each_source_layer(
    rows: list[tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decomposed = []
    eigh = torch.linalg.eigh

    def counted(matrix: Tensor) -> object:
        decomposed.append(matrix)
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    grid = grid_of(*rows[0])
    atlas(grid, grid, grid, SOURCE, TARGET, {})
    scatters = [grid.pair(s, 1).scatter_xx for s in SOURCE.layers]
    assert sum(any(torch.equal(m, scatter) for scatter in scatters) for m in decomposed) == 2
    assert len(decomposed) == 2 + 6  # and one for the rank of each cell


def cell(source_layer: int, target_layer: int, error: float, fvu: float = 0.5) -> AtlasCell:
    return AtlasCell(source_layer, target_layer, fvu, 1.0, 0.5, 3, {"french": error}, {"french": 0.5})


def test_layers_are_chosen_by_error_along_the_vector_among_those_that_steer() -> None:
    cells = [
        cell(0, 4, 0.1, fvu=0.1),
        cell(1, 4, 0.4),
        cell(2, 4, 0.3, fvu=0.9),
        cell(3, 4, 0.3),
        cell(3, 5, 0.0),
    ]
    assert choose_layers(cells, "french", {0, 1, 2, 3}, 4) == 0
    assert choose_layers(cells, "french", {1, 2, 3}, 4) == 2
    assert choose_layers(cells, "french", [1], 4) == 1
    with pytest.raises(InvalidValue):
        choose_layers(cells, "french", [8], 4)
    with pytest.raises(InvalidValue, match=r"recording\.target"):
        choose_layers(cells, "french", [1], 6)
    with pytest.raises(ValueError, match=r"no vector 'mood'; it has \['french'\]"):
        choose_layers(cells, "mood", [1], 4)


def test_errors_of_grids_name_what_is_wrong() -> None:
    x, y = stacked_rows(torch.Generator().manual_seed(8), 10)
    grid = grid_of(x, y)
    before = {name: tensor.clone() for name, tensor in grid.tensors().items()}
    xs, ys = by_layer(x, SOURCE), by_layer(y, TARGET)
    with pytest.raises(ValueError, match=r"source layers \[2, 5\], got \[2\]"):
        grid.update({2: xs[2]}, ys)
    with pytest.raises(ValueError, match=r"\[n, 8\] of every target layer, got \[10, 7\] of 4"):
        grid.update(xs, {**ys, 4: ys[4][:, :7]})
    with pytest.raises(ValueError, match="10 source rows and 9 target rows"):
        grid.update(xs, {t: rows[:9] for t, rows in ys.items()})
    spoilt = ys[7].clone()
    spoilt[3:5, 2] = float("inf")
    with pytest.raises(InvalidValue):
        grid.update(xs, {**ys, 7: spoilt})
    assert all(torch.equal(tensor, before[name]) for name, tensor in grid.tensors().items())
    with pytest.raises(ValueError, match=r"source layer 3 is not in the grid of layers \[2, 5\]"):
        grid.pair(3, 1)
    with pytest.raises(ValueError, match="different layers or widths"):
        grid.merge(GridMoments((2, 6), 6, TARGET.layers, 8))
    for layers in ((), (1, 1)):
        with pytest.raises(InvalidValue):
            GridMoments(layers, 6, (1,), 8)
    with pytest.raises(ValueError, match="widths must be at least 1"):
        GridMoments((1,), 0, (1,), 8)
    with pytest.raises(ValueError, match="bfloat16"):
        GridMoments((1,), 6, (1,), 8, products="bfloat16")  # type: ignore[arg-type]


def test_errors_of_an_atlas_name_what_is_wrong(rows: list[tuple[Tensor, Tensor]]) -> None:
    moments, grid = moments_of(*rows[1]), grid_of(*rows[1])
    other = moments_of(torch.cat([rows[1][0], rows[1][0][:, :6]], 1), rows[1][1])
    with pytest.raises(ValueError, match=r"12 -> 24.* 18 -> 24"):
        atlas(other, moments, moments, LayerConcat((1, 2, 5), 6), TARGET, {})
    with pytest.raises(ValueError, match="test moments"):
        atlas(moments, moments, grid, LayerConcat((5, 2), 6), TARGET, {})
    empty = GridMoments(SOURCE.layers, 6, TARGET.layers, 8)
    with pytest.raises(InvalidValue):
        atlas(grid, grid, empty, SOURCE, TARGET, {})
    with pytest.raises(ValueError, match="vector mood"):
        atlas(grid, grid, grid, SOURCE, TARGET, {"mood": (torch.ones(6), torch.ones(24))})
    with pytest.raises(InvalidValue):
        atlas(
            grid, grid, grid, SOURCE, TARGET, {"mood": (torch.ones(12), 1 - TARGET.alone(torch.ones(24), 4))}
        )


def test_errors_of_the_shared_decomposition(rows: list[tuple[Tensor, Tensor]]) -> None:
    pairs = [grid_of(*each).pair(2, 1) for each in rows]
    shared = SharedRidge(pairs[0], pairs[1])
    with pytest.raises(ValueError, match="SharedRidge"):
        shared.fit(grid_of(*rows[0]).pair(5, 1), pairs[1])
    with pytest.raises(ValueError, match="6 -> 8, validation moments 6 -> 6"):
        shared.fit(pairs[0], moments_of(rows[1][0][:, :6], rows[1][0][:, :6]))
    with pytest.raises(ValueError, match="6 source dimensions, validation rows have 12"):
        SharedRidge(pairs[0], moments_of(*rows[1]))
    constant = moments_of(torch.ones(9, 6), torch.randn(9, 8))
    with pytest.raises(InvalidValue):
        SharedRidge(constant, pairs[1])
    with pytest.raises(InvalidValue):
        shared.fit(pairs[0], moments_of(torch.randn(9, 6), torch.ones(9, 8)))


def test_further_rows_are_scored_by_the_same_maps() -> None:
    generator = torch.Generator().manual_seed(3)
    source, target = LayerConcat((0, 2), 4), LayerConcat((1,), 5)
    weight = torch.randn(5, 8, generator=generator, dtype=torch.float64)

    def moments(n: int, noise: float) -> Moments:
        x = torch.randn(n, 8, generator=generator, dtype=torch.float64)
        found = Moments(8, 5, products="float64")
        found.update(x, x @ weight.T + noise * torch.randn(n, 5, generator=generator, dtype=torch.float64))
        return found

    train, validation, test, wild = moments(400, 0.1), moments(200, 0.1), moments(200, 0.1), moments(200, 9.0)
    cells = atlas(train, validation, test, source, target, {}, beside={"same": test, "wild": wild})
    assert len(cells) == 2
    for cell in cells:
        assert cell.fvu_of["same"] == pytest.approx(cell.fvu)
        assert cell.fvu_of["wild"] > cell.fvu
    with pytest.raises(ValueError, match="other"):
        atlas(train, validation, test, source, target, {}, beside={"other": Moments(3, 5)})
