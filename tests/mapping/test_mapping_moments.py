from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, Moments, merge_all, ridge_path

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def rows(seed: int, n: int, offset: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator) + offset
    y = x[:, :3] * 2 + torch.randn(n, 3, generator=generator)
    return x, y


def gathered(x: Tensor, y: Tensor, products: str = "float64") -> Moments:
    moments = Moments(x.shape[1], y.shape[1], products=products)  # type: ignore[arg-type]
    moments.update(x, y)
    return moments


def assert_close(moments: Moments, x: Tensor, y: Tensor, tolerance: float) -> None:
    x, y = x.double(), y.double()
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    assert moments.count == len(x)
    for found, wanted in (
        (moments.mean_x, x.mean(0)),
        (moments.mean_y, y.mean(0)),
        (moments.scatter_xx, centred_x.T @ centred_x),
        (moments.scatter_xy, centred_x.T @ centred_y),
        (moments.scatter_yy, centred_y.T @ centred_y),
    ):
        assert found.dtype == torch.float64
        assert (found - wanted).norm() <= tolerance * wanted.norm()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    products=st.sampled_from(["float64", "float32"]),
    seed=st.integers(0, 2**20),
)
def test_any_chunking_and_merge_order_gives_the_moments_of_all_rows(sizes, order, products, seed):
    x, y = rows(seed, sum(sizes) + 2)
    sizes = [sizes[0] + 2, *sizes[1:]]
    parts = []
    for chunk_x, chunk_y in zip(x.split(sizes), y.split(sizes), strict=True):
        part = Moments(4, 3, products=products)
        for row_x, row_y in zip(chunk_x.split(7), chunk_y.split(7), strict=True):
            part.update(row_x, row_y)
        parts.append(part)
    while len(parts) > 1:
        order.shuffle(parts)
        parts.append(parts.pop().merge(parts.pop()))
    assert_close(parts[0], x, y, TOLERANCE[products])


def test_parts_that_are_drawn_with_replacement_are_merged_in_one_reading():
    x, y = rows(9, 100)
    parts = [gathered(x[:40], y[:40]), gathered(x[40:41], y[40:41]), gathered(x[41:], y[41:]), Moments(4, 3)]
    drawn = torch.cat([x[:40], x[:40], x[:40], x[41:]]), torch.cat([y[:40], y[:40], y[:40], y[41:]])
    assert_close(merge_all(parts, times=[3, 0, 1, 5]), *drawn, 1e-12)
    assert merge_all(parts, times=[0, 0, 0, 1]).count == 0
    origin = merge_all([part.about_origin() for part in parts[:3]], times=[2, 1, 1])
    assert not origin.mean_x.any()
    with pytest.raises(ValueError, match="4 -> 3 and 3 -> 3"):
        merge_all([parts[0], Moments(3, 3)], times=[1, 0])


def test_updates_after_a_merge_go_on_counting():
    x, y = rows(1, 300)
    merged = gathered(x[:100], y[:100]).merge(gathered(x[100:200], y[100:200]))
    merged.update(x[200:], y[200:])
    assert_close(merged, x, y, 1e-12)


def test_merging_with_empty_moments_copies():
    x, y = rows(1, 50)
    full = gathered(x, y)
    for merged in (full.merge(Moments(4, 3)), Moments(4, 3).merge(full)):
        merged.update(x, y)
        assert merged.count == 100
    assert full.count == 50


@pytest.mark.parametrize("products", TOLERANCE)
@pytest.mark.parametrize("cut", [0, 1, 137, 270])
def test_rows_taken_away_leave_the_moments_of_the_others(products, cut):
    x, y = rows(7, 300)
    x[:, 1] += 300.0
    everything, taken = gathered(x, y, products), gathered(x[:cut], y[:cut], products)
    assert_close(everything.without(taken), x[cut:], y[cut:], 20 * TOLERANCE[products])  # few are left
    assert everything.count == 300
    assert taken.count == cut


def test_taking_all_rows_away_leaves_none_and_more_are_refused():
    x, y = rows(7, 50)
    everything = gathered(x, y)
    left = everything.without(gathered(x, y))
    assert left.count == 0
    left.update(x, y)
    assert_close(left, x, y, 1e-12)
    with pytest.raises(ValueError, match="51 rows"):
        everything.without(gathered(*rows(1, 51)))
    with pytest.raises(ValueError, match="widths"):
        everything.without(Moments(4, 4))


def test_a_large_mean_costs_no_digits():
    x, y = rows(2, 20_000)
    x[:, 0] += 4000.0
    assert_close(gathered(x, y, "float32"), x, y, 1e-5)
    # The negative control: uncentred float32 sums lose what the shift keeps.
    uncentred = (x.T @ x).double() - len(x) * torch.outer(x.double().mean(0), x.double().mean(0))
    centred = x.double() - x.double().mean(0)
    wanted = centred.T @ centred
    assert (uncentred - wanted).norm() > 1e-3 * wanted.norm()


def test_bfloat16_rows_are_multiplied_exactly_enough():
    x, y = rows(3, 5000)
    x, y = x.bfloat16(), y.bfloat16()
    assert_close(gathered(x, y, "float32"), x.double(), y.double(), 1e-5)


def test_matmul_precision_of_the_caller_is_left_alone():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        gathered(*rows(0, 10))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_fvu_from_moments_is_the_fvu_of_the_rows():
    x, y = rows(4, 400)
    generator = torch.Generator().manual_seed(0)
    affine = AffineMap(torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator))
    moments = gathered(x, y)
    residual = affine.to(torch.float64).points(x) - y.double()
    total = (y.double() - y.double().mean(0)).square().sum()
    assert moments.fvu_of(affine) == pytest.approx(float(residual.square().sum() / total), rel=1e-9)
    direction = torch.tensor([1.0, -2.0, 0.5])
    along = (y.double() - y.double().mean(0)) @ direction.double()
    wanted = float((residual @ direction.double()).square().sum() / along.square().sum())
    assert moments.error_along(affine, direction) == pytest.approx(wanted, rel=1e-9)
    assert moments.error_along(affine, 9 * direction) == pytest.approx(wanted, rel=1e-9)


def test_mean_predictor_scores_one_and_perfect_map_zero():
    x, _ = rows(5, 200)
    weight, bias = torch.full((3, 4), 0.5, dtype=torch.float64), torch.arange(3).double()
    weight[1, 2] = 2.0
    truth = AffineMap(weight, bias)
    y = truth.points(x)
    moments = gathered(x, y)
    assert moments.fvu_of(truth) == pytest.approx(0.0, abs=1e-12)
    mean = AffineMap(torch.zeros(3, 4, dtype=torch.float64), y.mean(0))
    assert moments.fvu_of(mean) == pytest.approx(1.0, abs=1e-12)


def test_about_origin_leaves_the_raw_second_moments():
    x, y = rows(6, 100)
    origin = gathered(x, y).about_origin()
    assert origin.mean_x.abs().max() == 0
    torch.testing.assert_close(origin.scatter_xy, x.double().T @ y.double(), rtol=1e-12, atol=0)


def test_saving_and_loading_keeps_every_bit_and_goes_on(tmp_path):
    x, y = rows(8, 200)
    first = gathered(x[:120], y[:120], "float32")
    first.save(tmp_path / "moments.safetensors")
    again = Moments.load(tmp_path / "moments.safetensors")
    for moments in (first, again):
        moments.update(x[120:], y[120:])
    assert again.products == "float32"
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["moments.safetensors"]


def test_errors_name_what_is_wrong():
    moments = Moments(4, 3)
    with pytest.raises(InvalidValue):
        _ = moments.mean_x
    with pytest.raises(ValueError, match=r"\[n, 4\] and \[n, 3\]"):
        moments.update(torch.zeros(5, 4), torch.zeros(6, 3))
    with pytest.raises(InvalidValue):
        moments.update(torch.zeros(5, 4), torch.full((5, 3), torch.inf))
    assert moments.count == 0
    with pytest.raises(ValueError, match="4 -> 3 and 3 -> 3"):
        moments.merge(Moments(3, 3))
    with pytest.raises(ValueError, match="float32 or float64"):
        Moments(4, 3, products="bfloat16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected"):
        Moments.from_tensors({"sum_x": torch.zeros(3)})
    moments.update(torch.randn(6, 4), torch.ones(6, 3))
    with pytest.raises(InvalidValue):
        moments.fvu_of(AffineMap(torch.zeros(3, 4), torch.zeros(3)))
    with pytest.raises(InvalidValue):
        moments.error_along(AffineMap(torch.zeros(3, 4), torch.zeros(3)), torch.zeros(3))


def test_products_stay_exact_within_autocast() -> None:
    x, y = torch.randn(500, 8), torch.randn(500, 6)
    plain, within = Moments(8, 6), Moments(8, 6)
    plain.update(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within.update(x, y)
    assert torch.equal(plain.scatter_xy, within.scatter_xy)


def test_products_in_float32_lose_no_digit_that_a_map_has() -> None:
    """Why products need no float64, which many GPUs compute at a sixty-fourth of the speed of float32."""
    x, y = rows(9, 30_000, offset=300.0)
    x = x * torch.tensor([100.0, 10.0, 1.0, 0.1])
    both = [
        ridge_path(*(gathered(x[half], y[half], products) for half in (slice(0, None, 2), slice(1, None, 2))))
        for products in ("float32", "float64")
    ]
    assert both[0].fvu_validation == pytest.approx(both[1].fvu_validation, rel=1e-5)
    assert (both[0].map.weight - both[1].map.weight).norm() < 1e-5 * both[1].map.weight.norm()


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_side_that_is_not_finite_is_named_and_nothing_is_added(side: str, value: float) -> None:
    x, y = rows(0, 20)
    moments = gathered(x, y)
    before = {name: tensor.clone() for name, tensor in moments.tensors().items()}
    (x if side == "source" else y)[3, 1] = value
    for kept in (moments, Moments(4, 3)):
        with pytest.raises(InvalidValue, match=f"pair.{side}.dtype"):
            kept.update(x, y)
    assert all(torch.equal(moments.tensors()[name], tensor) for name, tensor in before.items())


def test_moments_on_their_own_device_are_not_copied() -> None:
    moments = gathered(*rows(0, 20))
    assert moments.to("cpu") is moments
