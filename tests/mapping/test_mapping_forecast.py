from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from summed_rows import moments_of
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, Moments, ridge_at
from lrt.mapping.forecast import (
    Forecast,
    agreement,
    directions_of_halves,
    independent_error,
    jackknife,
    merge_all,
    residual_on,
)

D_SOURCE, D_TARGET, FOLDS = 5, 4, 10
WEIGHT = torch.randn(D_TARGET, D_SOURCE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
VECTOR = torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0], dtype=torch.float64)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def folds_of(
    generator: torch.Generator,
    documents: int = 20,  # of each fold
    tokens: int = 5,  # of each document
    shared: float = 0.0,  # share of the variance, of rows and of noise, that a document has in common
    noise: float = 1.0,
    deviations: Tensor | None = None,  # [D_SOURCE]
) -> list[Moments]:
    def rows(width: int) -> Tensor:
        own = normal(generator, FOLDS, documents, tokens, width)
        common = normal(generator, FOLDS, documents, 1, width)
        return (math.sqrt(shared) * common + math.sqrt(1 - shared) * own).reshape(FOLDS, -1, width)

    x = rows(D_SOURCE) * (torch.ones(D_SOURCE) if deviations is None else deviations) + 3
    y = x @ WEIGHT.T + noise * rows(D_TARGET) - 1
    return [moments_of(*fold) for fold in zip(x, y, strict=True)]


def forecast(folds: list[Moments], weight: float = 1.0, v: Tensor = VECTOR, **options: object) -> Forecast:
    return jackknife(folds, {"v": v}, weight, **options)["v"]  # type: ignore[arg-type]


def over_corpora(draw: Callable[[torch.Generator], list[Moments]], corpora: int = 60) -> tuple[float, ...]:
    """Monte Carlo deviation of `W v`, and the root mean squares of both errors that are forecast."""
    generator = torch.Generator().manual_seed(5)
    images, squares = [], []
    for _ in range(corpora):
        folds = draw(generator)
        whole = folds[0]
        for fold in folds[1:]:
            whole = whole.merge(fold)
        images.append(ridge_at(whole, 1.0).directions(VECTOR))
        found = forecast(folds)
        independent = independent_error(whole, ridge_at(whole, 1.0), 1.0, VECTOR)
        squares.append([found.standard_error**2, independent**2])
    true = float(torch.stack(images).var(0).sum().sqrt())
    jackknifed, independent = torch.tensor(squares).mean(0).sqrt().tolist()
    return true, jackknifed, independent


def test_standard_error_is_the_deviation_over_corpora() -> None:
    true, jackknifed, independent = over_corpora(folds_of)
    # 60 draws of 4 dimensions tell a deviation to about 5%.
    assert jackknifed == pytest.approx(true, rel=0.15)
    assert independent == pytest.approx(true, rel=0.15)


def test_only_the_jackknife_sees_correlated_rows() -> None:
    true, jackknifed, independent = over_corpora(lambda generator: folds_of(generator, shared=0.9))
    assert jackknifed == pytest.approx(true, rel=0.15)
    assert independent < 0.65 * true


def test_signal_is_the_image_of_the_ridge_map() -> None:
    folds = folds_of(torch.Generator().manual_seed(2))
    whole = folds[0]
    for fold in folds[1:]:
        whole = whole.merge(fold)
    for bias in (True, False):
        affine = ridge_at(whole, 30.0, bias=bias)
        found = forecast(folds, 30.0, bias=bias)
        assert found.signal == pytest.approx(float(affine.directions(VECTOR).norm()), rel=1e-10)
        assert found.signal_to_noise == pytest.approx(found.signal / found.standard_error)
        assert (found.vector, found.folds, found.rows) == ("v", FOLDS, 1000)
    inverse = torch.linalg.inv(whole.scatter_xx + 30 * torch.eye(D_SOURCE))
    affine = ridge_at(whole, 30.0)
    residual = whole.fvu_of(affine) * whole.scatter_yy.trace() / whole.count
    wanted = (VECTOR @ inverse @ whole.scatter_xx @ inverse @ VECTOR * residual).sqrt()
    assert independent_error(whole, affine, 30.0, VECTOR) == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_standard_error_is_that_of_refitting_without_each_fold(bias: bool) -> None:
    folds = folds_of(torch.Generator().manual_seed(3))
    images = []
    for left_out in range(FOLDS):
        rest = [fold for i, fold in enumerate(folds) if i != left_out]
        merged = rest[0]
        for fold in rest[1:]:
            merged = merged.merge(fold)
        images.append(ridge_at(merged, 9.0 * (FOLDS - 1) / FOLDS, bias=bias).directions(VECTOR))
    stacked = torch.stack(images)
    wanted = (FOLDS - 1) / FOLDS * (stacked - stacked.mean(0)).square().sum()
    found = forecast(folds, 9.0, bias=bias)
    assert found.standard_error == pytest.approx(float(wanted.sqrt()), rel=1e-8)


def test_folds_of_other_sizes_are_weighted_by_their_rows() -> None:
    """Ten folds in a row of sizes 1 to 19 tell about the error that ten equal ones tell."""
    generator = torch.Generator().manual_seed(4)
    ratios = []
    for _ in range(30):
        x = normal(generator, 2000, D_SOURCE)
        y = x @ WEIGHT.T + normal(generator, 2000, D_TARGET)
        sizes = [20 * size for size in range(1, 20, 2)]
        errors = [
            forecast([moments_of(a, b) for a, b in zip(x.split(s), y.split(s), strict=True)]).standard_error
            for s in (sizes, [200] * 10)
        ]
        ratios.append((errors[0] / errors[1]) ** 2)
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.2)


def test_a_corpus_without_variance_along_the_vector_is_noisy_about_it() -> None:
    along = torch.tensor([0.0, 0, 0, 0, 1.0], dtype=torch.float64)
    ratios = []
    for deviation in (1.0, 0.1, 0.01):
        deviations = torch.tensor([1, 1, 1, 1, deviation])
        folds = folds_of(torch.Generator().manual_seed(6), deviations=deviations, noise=3.0)
        ratios.append(forecast(folds, v=along).signal_to_noise)
    assert ratios[0] > 4 * ratios[1]
    # All noise is one standard error long.
    assert ratios[1] > ratios[2] > 0.5
    assert ratios[2] < 2
    never = folds_of(torch.Generator().manual_seed(6), deviations=torch.tensor([1, 1, 1, 1, 0.0]))
    found = forecast(never, v=along)
    assert found.signal_to_noise == 0.0
    assert found.signal < 1e-9


def test_twice_the_rows_shrink_the_error_by_the_root_of_two() -> None:
    generator = torch.Generator().manual_seed(7)
    squares = [
        sum(forecast(folds_of(generator, documents=n)).standard_error ** 2 for _ in range(30))
        for n in (20, 40)
    ]
    assert math.sqrt(squares[0] / squares[1]) == pytest.approx(math.sqrt(2), rel=0.12)


def test_columns_are_one_target_layer() -> None:
    folds = folds_of(torch.Generator().manual_seed(8))
    columns = slice(1, 3)
    alone = [fold.part(slice(None), columns) for fold in folds]
    assert forecast(folds, columns=columns) == forecast(alone)
    assert forecast(folds, columns=columns).signal < forecast(folds).signal


def test_many_vectors_at_once_are_each_alone() -> None:
    folds = folds_of(torch.Generator().manual_seed(9))
    vectors = {"a": VECTOR, "b": VECTOR.flip(0)}
    together = jackknife(folds, vectors, 2.0)
    for name, v in vectors.items():
        alone = jackknife(folds, {name: v}, 2.0)[name]
        assert together[name].signal_to_noise == pytest.approx(alone.signal_to_noise, rel=1e-9)
    assert jackknife(folds, {}, 2.0) == {}


def test_length_of_the_vector_does_not_matter_to_the_ratio() -> None:
    folds = folds_of(torch.Generator().manual_seed(9))
    assert forecast(folds, v=7 * VECTOR).signal == pytest.approx(7 * forecast(folds).signal)
    assert forecast(folds, v=7 * VECTOR).signal_to_noise == pytest.approx(forecast(folds).signal_to_noise)


def test_agreement_sees_parts_of_different_maps_where_the_noise_is_low() -> None:
    """Two kinds of text, each linear, whose maps carry the vector opposite ways."""
    generator = torch.Generator().manual_seed(10)
    turned = WEIGHT - 1.2 * torch.outer(WEIGHT @ VECTOR, VECTOR) / VECTOR.square().sum()
    parts = {}
    for name, weight in (("english", WEIGHT), ("french", turned), ("letters", WEIGHT)):
        x = normal(generator, 4000, D_SOURCE)
        y = x @ weight.T + 0.1 * normal(generator, 4000, D_TARGET)
        parts[name] = [moments_of(*fold) for fold in zip(x.split(400), y.split(400), strict=True)]
    # Every fold holds both kinds, as a corpus that is split by document does.
    mixed = [a.merge(b) for a, b in zip(parts["english"], parts["french"], strict=True)]
    assert forecast(mixed).signal_to_noise > 20
    maps = {}
    for name, folds in parts.items():
        whole = folds[0]
        for fold in folds[1:]:
            whole = whole.merge(fold)
        maps[name] = ridge_at(whole, 1.0)
    images = {name: affine.directions(VECTOR) for name, affine in maps.items()}
    found = agreement(images)
    assert "french" in found.least_pair
    assert found.least < -0.99
    assert found.mean == pytest.approx(-1 / 3, abs=0.01)
    same = agreement([images["english"], images["letters"]])
    assert same.least == same.mean > 0.99
    assert same.least_pair == ("0", "1")


def test_agreement_with_a_map_that_sends_the_vector_to_zero_is_none() -> None:
    assert agreement([torch.ones(2), torch.zeros(2)]).least == 0.0


@pytest.mark.parametrize("bias", [True, False])
def test_halves_are_every_second_fold_at_their_share_of_the_weight(bias: bool) -> None:
    folds = folds_of(torch.Generator().manual_seed(14))
    vectors = torch.stack([VECTOR, VECTOR.flip(0)])
    for half, images in enumerate(directions_of_halves(folds, 20.0, vectors, bias=bias)):
        wanted = ridge_at(merge_all(folds[half::2]), 10.0, bias=bias).directions(vectors)
        torch.testing.assert_close(images, wanted, rtol=0, atol=1e-9)


def test_residuals_on_the_prompts_themselves() -> None:
    generator = torch.Generator().manual_seed(11)
    truth = AffineMap(WEIGHT, torch.ones(D_TARGET, dtype=torch.float64))
    topics = 3 * normal(generator, 400, D_SOURCE)
    # Topics stand across the vector, and each topic is asked both ways, as contrastive prompts are.
    topics -= torch.outer(topics @ VECTOR, VECTOR) / VECTOR.square().sum()
    positives, negatives = topics + VECTOR, topics - VECTOR
    prompts = torch.cat([positives, negatives])
    both = prompts, truth.points(prompts)
    assert residual_on(truth, *both) < 1e-20
    across = torch.eye(D_SOURCE, dtype=torch.float64) - torch.outer(VECTOR, VECTOR) / VECTOR.square().sum()
    blind = AffineMap(WEIGHT @ across, truth.bias)
    topicless = AffineMap(WEIGHT - WEIGHT @ across, truth.bias)
    assert residual_on(blind, *both) < 0.2
    assert residual_on(topicless, *both) > 0.8
    mean = AffineMap(torch.zeros_like(WEIGHT), both[1].mean(0))
    assert residual_on(mean, *both) == pytest.approx(1.0)


def test_warning_below_the_threshold_alone() -> None:
    found = Forecast("french", 2.0, 0.4, 5.0, 10, 1000)
    assert found.warning(5.0) is None
    warning = found.warning(8.0)
    assert warning is not None
    for part in ("french", "5.0 standard errors", "at least 8", "corpus.sources", "corpus.tokens"):
        assert part in warning


def test_a_map_without_noise_has_no_standard_error() -> None:
    folds = folds_of(torch.Generator().manual_seed(12), noise=0.0)
    assert forecast(folds, 0.0).signal_to_noise > 1e10


def test_errors_name_what_is_wrong() -> None:
    folds = folds_of(torch.Generator().manual_seed(13))
    with pytest.raises(InvalidValue):
        jackknife(folds[:1], {"v": VECTOR}, 1.0)
    with pytest.raises(InvalidValue):
        jackknife([folds[0], Moments(D_SOURCE, D_TARGET)], {"v": VECTOR}, 1.0)
    with pytest.raises(ValueError, match="fold 1 is 3 -> 4, fold 0 5 -> 4"):
        jackknife([folds[0], moments_of(torch.ones(2, 3), torch.ones(2, 4))], {"v": VECTOR}, 1.0)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        forecast(folds, -1.0)
    with pytest.raises(ValueError, match=r"\[5\], got \[4\]"):
        forecast(folds, v=VECTOR[:4])
    for bad in (0 * VECTOR, float("nan") * VECTOR):
        with pytest.raises(InvalidValue):
            forecast(folds, v=bad)
    with pytest.raises(ValueError, match="none of the 4 target columns"):
        forecast(folds, columns=slice(4, 6))
    short = [moments_of(torch.randn(1, D_SOURCE), torch.randn(1, D_TARGET)) for _ in range(3)]
    with pytest.raises(InvalidValue):
        forecast(short, 0.0)
    with pytest.raises(InvalidValue):
        agreement([VECTOR])
    with pytest.raises(ValueError, match=r"by map 0 is \[5\], by map 1 \[4\]"):
        agreement([VECTOR, VECTOR[:4]])
    truth, x, y = AffineMap(WEIGHT, WEIGHT[:, 0]), torch.zeros(3, D_SOURCE), torch.randn(3, D_TARGET)
    with pytest.raises(ValueError, match="same prompts"):
        residual_on(truth, x, y[:2])
    with pytest.raises(InvalidValue):
        residual_on(truth, x * float("inf"), y)
    with pytest.raises(InvalidValue):
        residual_on(truth, x, torch.ones(3, D_TARGET))


def test_a_map_that_is_off_by_a_constant_is_right_about_every_difference() -> None:
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    x = torch.randn(60, 4, dtype=torch.float64, generator=generator)
    y = x @ weight.T + 3.0
    off = AffineMap(weight, torch.zeros(5, dtype=torch.float64))
    assert residual_on(off, x, y) > 1.0
    assert residual_on(off, x, y, centred=True) == pytest.approx(0.0, abs=1e-12)
    # and one that is wrong about the differences is found out by both
    wrong = AffineMap(-weight, torch.full((5,), 3.0, dtype=torch.float64))
    assert residual_on(wrong, x, y, centred=True) > 1.0
