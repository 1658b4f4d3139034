from __future__ import annotations

from unittest import mock

import pytest
import torch

from lrt.errors import InvalidValue
from lrt.mapping import ErrorAlong, FractionUnexplained, MeanCosine
from lrt.mapping.metrics import collect


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    observed = torch.randn(500, 6, generator=generator) * torch.arange(1, 7) + 10
    return observed + torch.randn(500, 6, generator=generator), observed


def fvu(predicted, observed) -> float:
    predicted, observed = predicted.double(), observed.double()
    centred = observed - observed.mean(0)
    return float((predicted - observed).square().sum() / centred.square().sum())


def batched(metric, predicted, observed) -> float:
    for a, b in zip(predicted.split(37), observed.split(37), strict=True):
        metric.update(a, b)
    return float(metric.compute())


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_batches_give_the_whole_rows_values(rows, offset):
    predicted, observed = (part.double() + offset for part in rows)
    centre = torch.full((6,), offset)
    wanted = fvu(predicted, observed)
    assert batched(FractionUnexplained(6, centre), predicted, observed) == pytest.approx(wanted, rel=1e-8)
    direction = torch.tensor([3.0, 0, 0, -4.0, 0, 0])
    unit = direction.double()[:, None] / 5
    found = batched(ErrorAlong(direction, centre), predicted, observed)
    assert found == pytest.approx(fvu(predicted @ unit, observed @ unit), rel=1e-8)
    cosine = torch.cosine_similarity(predicted, observed).mean()
    assert batched(MeanCosine(), predicted, observed) == pytest.approx(float(cosine), rel=1e-12)


def test_mean_predictor_scores_one_and_perfect_map_zero(rows):
    _, observed = rows
    mean = observed.mean(0).expand_as(observed)
    assert batched(FractionUnexplained(6), mean, observed) == pytest.approx(1.0, abs=1e-6)
    assert batched(FractionUnexplained(6), observed, observed) == 0.0
    # One scalar mean for all dimensions would flatter a predictor of the means.
    apart = observed + 100 * torch.arange(6)
    mean = apart.mean(0).expand_as(apart)
    assert batched(FractionUnexplained(6), mean, apart) == pytest.approx(1.0, abs=1e-6)


def test_an_error_elsewhere_does_not_count_along_the_vector(rows):
    _, observed = rows
    predicted = observed.clone()
    predicted[:, 1] += 50
    along_other = ErrorAlong(torch.tensor([1.0, 0, 1, 0, 0, 0]))
    assert batched(along_other, predicted, observed) == pytest.approx(0.0, abs=1e-9)
    assert batched(ErrorAlong(torch.eye(6)[1]), predicted, observed) > 100


def test_constant_rows_have_no_fvu():
    metric = FractionUnexplained(2)
    metric.update(torch.zeros(4, 2), torch.ones(4, 2))
    assert metric.compute().isnan()


def test_a_zero_direction_is_refused():
    with pytest.raises(InvalidValue):
        ErrorAlong(torch.zeros(3))


def test_collected_scores_are_named_by_split_and_reset(rows):
    predicted, observed = rows
    scores = {"fvu": FractionUnexplained(6), "cosine": MeanCosine()}
    for _ in range(2):
        for score in scores.values():
            score.update(predicted, observed)
        values = collect(mock.Mock(world_size=1), "val", scores.items())
        assert float(values["val/fvu"]) == pytest.approx(fvu(predicted, observed), rel=1e-6)
        assert list(values) == ["val/fvu", "val/cosine"]
        assert all(float(score.rows) == 0 for score in scores.values())
