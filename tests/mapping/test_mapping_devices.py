"""Moments and every solve on a pretend GPU: nothing mixes devices, and the results are the CPU's."""

from typing import Any

import pytest
import torch
from planted_rows import Planted
from pretend_devices import device_of, pretend_cuda
from torch import Tensor

from lrt.mapping import (
    GridMoments,
    GroupedMoments,
    LayerConcat,
    MapSpec,
    Moments,
    SharedRidge,
    ShuffledPairs,
    Whitening,
    atlas,
    closed_form,
    directions_along,
    from_embeddings,
    gcv_curve,
    jackknife,
    many_to_many,
    many_to_one,
    mean_only,
    merge_all,
    rank_curve,
    reduced_rank_path,
    ridge_at,
    ridge_per_direction,
    shuffled_fvu,
)

CUDA = "cuda:0"


def gathered(rows: tuple[Tensor, Tensor], device: str, **options: Any) -> Moments:
    x, y = (side.to(device) for side in rows)
    moments = Moments(x.shape[1], y.shape[1], device=device, **options)
    moments.update(x, y)
    return moments


def solves(train: Moments, validation: Moments, rows: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """What every solver returns, as numbers and maps, which must lie on the CPU."""
    x, y = rows
    shared = SharedRidge(train, validation)
    ridge = shared.fit(train, validation)
    directional = ridge_per_direction(train, validation, ridge.weight)
    concats = LayerConcat((0, 1), train.d_source // 2), LayerConcat((0, 1), train.d_target // 2)
    curve = rank_curve(ridge, train, validation)
    folds = [Moments(train.d_source, train.d_target, device=train.device) for _ in range(3)]
    by_fold = GroupedMoments(folds)
    by_fold.add(x.to(train.device), y.to(train.device), torch.arange(len(x)) % 3)
    by_fold.flush()
    v = torch.ones(train.d_source)
    embedded = from_embeddings(x[:400], y[:400], train)
    # the pretend device does not know what autograd makes, so the penalised kind is not here
    kinds = MapSpec(), MapSpec("low_rank", rank=3), MapSpec("orthogonal")
    return {
        "ridge": ridge.map,
        "curve": ridge.curve,
        "gcv": gcv_curve(shared, train, ridge.weights),
        "shuffled": shuffled_fvu(shared, train, ridge.weight, validation),
        "shared": shared.map_at(train, 3.0),
        "at": ridge_at(train, 3.0, bias=False),
        "directional": directional.map,
        "weights": directional.weights,
        "along": directions_along(validation, directional.basis, directional.weights, v[None]),
        "kinds": [closed_form(kind, train, validation).map for kind in kinds],
        "rank": reduced_rank_path(train, 2.0).map(4),
        "ranks": [curve.fvu, curve.truncated_fvu],
        "scores": [validation.fvu_of(ridge.map), validation.error_along(ridge.map, torch.ones(len(y[0])))],
        "mean": mean_only(train),
        "embeddings": embedded,
        "jackknife": jackknife(folds, {"v": v}, ridge.weight)["v"].standard_error,
        "without": [ridge_at(merge_all(folds).without(fold), 1.0) for fold in folds],
        "merged": merge_all(folds).fvu_of(ridge.map),
        "atlas": [
            (c.fvu, c.rank, c.cka, c.error_along["v"], c.cosine["v"])
            for c in atlas(
                train,
                validation,
                validation,
                *concats,
                {"v": (v, torch.ones(train.d_target))},
                beside={"again": validation},
            )
        ],
        "many": [each.fvu_all for each in many_to_one(train, validation, validation, *concats)],
        "all": many_to_many(train, validation, validation, *concats).map,
        "whitening": Whitening.from_moments(train, "full").transform,
    }


def test_solves_on_a_device_give_what_they_give_on_the_cpu(planted: Planted) -> None:
    rows = planted.train
    train, validation = (gathered(side, "cpu") for side in (planted.train, planted.validation))
    expected = solves(train, validation, rows)
    with pretend_cuda():
        train, validation = (gathered(side, CUDA) for side in (planted.train, planted.validation))
        assert train.device == torch.device(CUDA)
        found = solves(train, validation, rows)
        same(found, expected)


def test_a_wider_source_is_turned_on_its_device(planted: Planted) -> None:
    train, validation = (gathered(side[::-1], "cpu") for side in (planted.train, planted.validation))
    spec = MapSpec("orthogonal")
    expected = closed_form(spec, train, validation).map
    with pretend_cuda():
        same(closed_form(spec, train.to(CUDA), validation.to(CUDA)).map, expected)


@pytest.mark.parametrize("sums", ["cpu", CUDA])
def test_rows_on_a_device_are_added_to_sums_here_or_there(planted: Planted, sums: str) -> None:
    """Sums that do not fit lie in the CPU's memory; products are computed where the rows are."""

    def summed(rows: str, sums: str) -> list[Tensor]:
        x, y = (side.to(rows) for side in planted.train)
        plain, shuffled = Moments(12, 16, device=sums), Moments(12, 16, device=sums)
        folds = [Moments(12, 16, device=sums) for _ in range(3)]
        grid = GridMoments([1, 2], 12, [0], 16, device=sums)
        by_fold, pairs = GroupedMoments(folds), ShuffledPairs([shuffled], 3000, 0)
        for some_x, some_y in zip(x.split(1000), y.split(1000), strict=True):
            plain.update(some_x, some_y)
            by_fold.add(some_x, some_y, torch.arange(len(some_x)) % 3)
            pairs.add(some_x, some_y)
            grid.update({1: some_x, 2: -some_x}, {0: some_y})
        by_fold.flush()
        pairs.flush()
        assert {m.device for m in (plain, shuffled, *folds, grid)} == {torch.device(sums)}
        return [
            tensor.to("cpu")
            for m in (plain, shuffled, *folds, grid.merge(grid), grid.pair(2, 0))
            for tensor in m.tensors().values()
        ]

    expected = summed("cpu", "cpu")
    with pretend_cuda():
        same(summed(CUDA, sums), expected)


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float | int):
        assert found == pytest.approx(expected, rel=1e-12)
    elif isinstance(expected, Tensor):
        assert device_of(found) == torch.device("cpu")
        assert torch.equal(found, expected)
    else:
        same([found.weight, found.bias], [expected.weight, expected.bias])
