from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from summed_rows import moments_of
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, LayerConcat, Moments, ridge_at, ridge_path
from lrt.mapping.layer_concat import layer_concat_bytes
from lrt.mapping.many_to_one import (
    ManyToOne,
    many_to_many,
    many_to_one,
    solving_bytes,
)

SOURCE, TARGET = LayerConcat((0, 3, 4, 6), 4), LayerConcat((2, 9), 5)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def rows(generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Target layer 2 is the sum of what source layers 3 and 6 say; target layer 9 is said by layer 4
    alone. Source layer 0 repeats layer 4 with some noise.
    """
    fixed = torch.Generator().manual_seed(50)
    maps = [normal(fixed, 4, 5) for _ in range(3)]
    three, four, six = (normal(generator, n, 4) + 2 for _ in range(3))
    zero = four + 0.5 * normal(generator, n, 4)
    both = three @ maps[0] + six @ maps[1] + 0.5 * normal(generator, n, 5)
    single = four @ maps[2] + 0.5 * normal(generator, n, 5) - 1
    return torch.cat([zero, three, four, six], 1), torch.cat([both, single], 1)


@pytest.fixture(scope="module")
def parts() -> list[Moments]:
    generator = torch.Generator().manual_seed(0)
    return [moments_of(*rows(generator, n)) for n in (3000, 2000, 2000)]


@pytest.fixture(scope="module")
def found(parts: list[Moments]) -> list[ManyToOne]:
    return many_to_one(*parts, SOURCE, TARGET)  # type: ignore[misc]


def test_a_sum_of_two_layers_is_gained_by_both(found: list[ManyToOne]) -> None:
    summed = found[0]
    assert summed.target_layer == 2
    assert summed.fvu_all < 0.1
    assert summed.gain > 0.7
    assert summed.best_layer in (3, 6)
    for layer in (3, 6):
        assert 0.2 < summed.fvu_single[layer] < 0.8
        assert summed.rise[layer] > 0.2
        assert summed.share[layer] > 0.2
    for layer in (0, 4):
        assert summed.fvu_single[layer] > 0.98
        assert abs(summed.rise[layer]) < 0.002
        assert summed.share[layer] < 0.002


def test_one_layers_information_gains_nothing_from_the_others(found: list[ManyToOne]) -> None:
    single = found[1]
    assert (single.target_layer, single.best_layer) == (9, 4)
    assert abs(single.gain) < 0.02
    assert single.fvu_best == single.fvu_single[4] < 0.1
    # The noisy repeat would do half as well alone and adds nothing to its original.
    assert single.fvu_single[0] < 0.5
    assert abs(single.rise[0]) < 0.002
    assert single.rise[4] > 0.1
    assert single.share[4] == pytest.approx(1.0, abs=0.1)


def test_layers_that_say_the_same_stand_in_for_each_other() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = normal(generator, 3, 4)

    def draw(n: int) -> Moments:
        x = normal(generator, n, 3)
        return moments_of(torch.cat([x, x], 1), x @ weight + 0.1 * normal(generator, n, 4))

    result = many_to_one(draw(500), draw(300), draw(300), LayerConcat((1, 2), 3), LayerConcat((0,), 4))[0]
    assert result.fvu_all < 0.05
    for layer in (1, 2):
        assert abs(result.rise[layer]) < 1e-3
        # Each gives half of the sum, so a quarter of its variance: shares are not additive.
        assert result.share[layer] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("bias", [True, False])
def test_every_figure_is_that_of_a_fit_of_its_own(bias: bool) -> None:
    """On few rows, where ridge weights matter; each fit straight from the rows of its layers."""
    generator = torch.Generator().manual_seed(2)
    data = [rows(generator, n) for n in (40, 300, 300)]
    results = many_to_one(*(moments_of(*each) for each in data), SOURCE, TARGET, bias=bias)  # type: ignore[misc]
    for t, result in zip(TARGET.layers, results, strict=True):

        def fit(*layers: int, t: int = t) -> tuple[float, float, AffineMap]:
            own = [
                moments_of(torch.cat([SOURCE.part(x, s) for s in layers], 1), TARGET.part(y, t))
                for x, y in data
            ]
            chosen = ridge_path(own[0], own[1], bias=bias)
            return chosen.fvu_validation, own[2].fvu_of(chosen.map), chosen.map

        singles = {layer: fit(layer) for layer in SOURCE.layers}
        assert result.fvu_single == pytest.approx({s: each[1] for s, each in singles.items()}, rel=1e-7)
        assert result.best_layer == min(singles, key=lambda s: singles[s][0])
        assert result.fvu_best == result.fvu_single[result.best_layer]
        _, fvu_all, whole = fit(*SOURCE.layers)
        assert result.fvu_all == pytest.approx(fvu_all, rel=1e-7)
        assert result.gain == pytest.approx(1 - fvu_all / result.fvu_best, abs=1e-7)
        predicted = whole.points(data[2][0])
        for s in SOURCE.layers:
            rest = fit(*(other for other in SOURCE.layers if other != s))[1]
            assert result.rise[s] == pytest.approx(rest - fvu_all, abs=1e-7)
            block = whole.directions(SOURCE.alone(data[2][0], s))
            share = block.var(0).sum() / predicted.var(0).sum()
            assert result.share[s] == pytest.approx(float(share), rel=1e-6)


def test_the_best_layer_is_not_picked_on_the_test_rows() -> None:
    """Two layers that say the same up to noise: on test rows the other one happens to be better."""
    generator = torch.Generator().manual_seed(3)

    def draw(noise: tuple[float, float]) -> Moments:
        x = normal(generator, 400, 3)
        seen = torch.cat([x + level * normal(generator, 400, 3) for level in noise], 1)
        return moments_of(seen, x + 0.1 * normal(generator, 400, 3))

    train, validation, test = draw((0.3, 0.3)), draw((0.2, 0.4)), draw((0.4, 0.2))
    result = many_to_one(train, validation, test, LayerConcat((1, 2), 3), LayerConcat((0,), 3))[0]
    assert result.best_layer == 1
    assert result.fvu_single[1] == result.fvu_best > result.fvu_single[2]


def test_a_perfect_single_layer_leaves_nothing_to_gain() -> None:
    x = normal(torch.Generator().manual_seed(4), 50, 4)
    moments = moments_of(x, torch.cat([x[:, :2], x[:, :2]], 1))
    result = many_to_one(moments, moments, moments, LayerConcat((0, 1), 2), LayerConcat((0, 1), 2))[0]
    assert result.best_layer == 0
    assert result.fvu_best < 1e-12
    assert result.gain == 0.0


@pytest.mark.parametrize("bias", [True, False])
def test_many_to_many_is_many_to_one_at_the_same_weight(parts: list[Moments], bias: bool) -> None:
    whole = many_to_many(*parts, SOURCE, TARGET, bias=bias)  # type: ignore[misc]
    for t in TARGET.layers:
        columns = TARGET.columns(t)
        alone = ridge_at(parts[0].part(slice(None), columns), whole.weight, bias=bias)
        torch.testing.assert_close(whole.map.weight[columns], alone.weight, rtol=0, atol=1e-9)
        torch.testing.assert_close(whole.map.bias[columns], alone.bias, rtol=0, atol=1e-9)
        assert whole.fvu_layer[t] == pytest.approx(parts[2].part(slice(None), columns).fvu_of(alone))
    assert whole.fvu == pytest.approx(parts[2].fvu_of(whole.map))


def test_many_to_many_pools_layers_by_their_variance(parts: list[Moments], found: list[ManyToOne]) -> None:
    whole = many_to_many(*parts, SOURCE, TARGET)  # type: ignore[misc]
    variances = {t: float(parts[2].part(slice(None), TARGET.columns(t)).scatter_yy.trace()) for t in (2, 9)}
    pooled = sum(whole.fvu_layer[t] * variances[t] for t in variances) / sum(variances.values())
    assert whole.fvu == pytest.approx(pooled)
    for result in found:
        assert whole.fvu_layer[result.target_layer] == pytest.approx(result.fvu_all, rel=0.02)


class LiveBytes(TorchDispatchMode):
    """The most bytes held at a time by tensors made while it is on."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                storage = made.untyped_storage()
                if storage._cdata not in self._known:
                    self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: held for key, held in self._live.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._live.values()))
        return out


@pytest.mark.parametrize("shape", [(4, 40, 1, 5), (2, 60, 2, 60), (2, 40, 1, 160), (2, 10, 2, 100)])
@pytest.mark.parametrize("bias", [True, False])
def test_memory_stays_within_the_stated_bound(shape: tuple[int, int, int, int], bias: bool) -> None:
    layers, d_source, target_layers, d_target = shape
    source, target = (
        LayerConcat(tuple(range(layers)), d_source),
        LayerConcat(tuple(range(target_layers)), d_target),
    )
    generator = torch.Generator().manual_seed(5)
    moments = [
        moments_of(normal(generator, 50, source.total), normal(generator, 50, target.total)) for _ in range(3)
    ]
    sums = [t for m in moments for name, t in m.tensors().items() if name.startswith(("shift", "sum"))]
    assert sum(t.nbytes for t in sums) == layer_concat_bytes(source, target, copies=3)
    most = []
    for solve in (many_to_one, many_to_many):
        with LiveBytes(sums) as live:
            solve(*moments, source, target, bias=bias)  # type: ignore[operator]
        most.append(live.most)
    # LAPACK's divide and conquer has a workspace that torch does not count.
    assert max(most) + 2 * source.total**2 * 8 <= solving_bytes(source, target)
    # Nor is the bound an empty one.
    assert max(most) > solving_bytes(source, target) / 6


def test_errors_name_what_is_wrong(parts: list[Moments]) -> None:
    with pytest.raises(InvalidValue, match=r"recording\.source"):
        many_to_one(*parts, LayerConcat((3,), 16), TARGET)  # type: ignore[misc]
    empty = Moments(16, 10)
    for solve in (many_to_one, many_to_many):
        with pytest.raises(ValueError, match=r"16 -> 10.* 16 -> 15"):
            solve(*parts, SOURCE, LayerConcat((1, 2, 3), 5))  # type: ignore[operator]
        with pytest.raises(InvalidValue):
            solve(parts[0], parts[1], empty, SOURCE, TARGET)  # type: ignore[operator]
