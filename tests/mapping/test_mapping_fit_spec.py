from __future__ import annotations

import re

import pytest
import torch

from lrt.errors import InvalidValue
from lrt.mapping import ClosedFormSpec, FitSpec, MapSpec
from lrt.mapping.fit_spec import optimizer_names

PAPER = FitSpec(
    optimizer="AdamW",
    learning_rate=1e-4,
    options={},
    schedule="constant",
    warmup=0.0,
    whitening="none",
    ridge=False,
)


def test_default_and_paper_settings_are_allowed_with_every_kind():
    for kind in (
        MapSpec(),
        MapSpec(kind="low_rank", rank=2),
        MapSpec(kind="orthogonal"),
        MapSpec(kind="orthogonal_penalty", penalty=1.0),
    ):
        FitSpec().check(kind)
        PAPER.check(kind)


def test_auto_whitens_fully_only_where_the_map_keeps_its_shape():
    assert FitSpec().whitening_for(MapSpec()) == "full"
    assert FitSpec().whitening_for(MapSpec(kind="low_rank", rank=2)) == "full"
    assert FitSpec().whitening_for(MapSpec(kind="orthogonal")) == "scale"
    assert PAPER.whitening_for(MapSpec()) == "none"


@pytest.mark.parametrize("name", optimizer_names())
def test_every_torch_optimizer_lowers_a_loss(name):
    matrix = torch.nn.Parameter(torch.ones(3, 2))
    bias = torch.nn.Parameter(torch.ones(3))
    spec = FitSpec(optimizer=name, learning_rate=0.01, options={})
    spec.check(MapSpec())
    optimizer = spec.build_optimizer([matrix], [bias])

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = matrix.square().sum() + bias.square().sum()
        value.backward()
        return value

    first = float(loss())
    for _ in range(5):
        optimizer.step(loss)
    assert float(loss()) < first


def test_weight_decay_reaches_the_decayed_alone():
    decayed = torch.nn.Parameter(torch.ones(2, 2))
    free = torch.nn.Parameter(torch.ones(2))
    spec = FitSpec(optimizer="AdamW", learning_rate=0.1, options={"weight_decay": 0.5})
    optimizer = spec.build_optimizer([decayed], [free])
    decayed.grad, free.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    assert float(decayed.detach()[0, 0]) == pytest.approx(0.95)
    assert torch.equal(free.detach(), torch.ones(2))


def rates(schedule: str, warmup: float, steps: int = 100) -> list[float]:
    spec = FitSpec(schedule=schedule, warmup=warmup, learning_rate=2.0)
    return [spec.rate_at(step, steps) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_rise_to_the_rate_and_end_as_named(schedule):
    found = rates(schedule, 0.1)
    assert found[0] < 0.4
    assert found[:10] == sorted(found[:10])
    assert max(found) == pytest.approx(2.0, abs=0.01)
    assert found[-1] == (2.0 if schedule == "constant" else pytest.approx(0.0, abs=0.04))
    if schedule == "linear":
        assert found[55] == pytest.approx(1.0, abs=0.02)


def test_without_warmup_the_first_step_has_the_full_rate():
    for schedule in ("constant", "linear", "cosine"):
        assert rates(schedule, 0.0)[0] == 2.0
        assert len(rates(schedule, 0.0, steps=1)) == 1


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"optimizer": "SGDM"}, "fit.optimizer"),
        ({"options": {"betas": (0.9, 0.99)}}, "fit.options.betas"),
        ({"options": {"lr": 1.0}}, "fit.options.lr"),
        ({"learning_rate": 0.0}, "fit.learning_rate"),
        ({"schedule": "step"}, "fit.schedule"),
        ({"start": "zero"}, "fit.start"),
        ({"warmup": 1.0}, "fit.warmup"),
        ({"whitening": "pca"}, "fit.whitening"),
        ({"whitening_floor": 0.0}, "fit.whitening_floor"),
        ({"epochs": 0}, "fit.epochs"),
        ({"gradient_clip": 0.0}, "fit.gradient_clip"),
        ({"patience": 0}, "fit.patience"),
        ({"least_improvement": -1.0, "patience": 2}, "fit.least_improvement"),
        ({"least_improvement": 0.1}, "fit.patience=null"),
        ({"whitening_floor": 1e-3, "whitening": "none"}, "fit.whitening_floor=0.001"),
    ],
)
def test_impossible_settings_are_refused(changes, setting):
    with pytest.raises(InvalidValue, match=re.escape(setting)):
        FitSpec(**changes).check(MapSpec())


def test_orthogonal_refuses_full_whitening():
    with pytest.raises(InvalidValue, match=r"fit\.whitening"):
        FitSpec(whitening="full").check(MapSpec(kind="orthogonal"))


@pytest.mark.parametrize(
    ("spec", "map_spec", "setting"),
    [
        (ClosedFormSpec("identity"), MapSpec("low_rank", rank=2), "fit.solver=identity"),
        (ClosedFormSpec("ridge_per_direction"), MapSpec("orthogonal"), "fit.solver=ridge_per_direction"),
        (ClosedFormSpec("mean_only"), MapSpec(bias=False), "map.bias=true"),
        (ClosedFormSpec(), MapSpec("orthogonal", orthogonal_form="cayley"), "map.orthogonal_form=cayley"),
    ],
)
def test_a_closed_form_refuses_a_map_that_it_cannot_give(spec, map_spec, setting):
    with pytest.raises(InvalidValue, match=re.escape(setting)):
        spec.check(map_spec)


def test_every_kind_has_its_closed_form():
    for spec in (MapSpec(), MapSpec("low_rank", rank=2), MapSpec("orthogonal"), MapSpec(bias=False)):
        ClosedFormSpec().check(spec)
    assert ClosedFormSpec().trainer_options() == {}
