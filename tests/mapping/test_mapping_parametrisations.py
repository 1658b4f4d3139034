from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, MapSpec, orthogonality_penalty
from lrt.mapping.parametrisations import random_semi_orthogonal

WIDTHS = [(6, 9), (9, 6), (7, 7)]
SPECS = [
    MapSpec(),
    MapSpec(bias=False),
    MapSpec(kind="low_rank", rank=3),
    MapSpec(kind="orthogonal"),
    MapSpec(kind="orthogonal", orthogonal_form="cayley", bias=False),
    MapSpec(kind="orthogonal_penalty", penalty=0.5),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def few_steps(module: torch.nn.Module, d_source: int, d_target: int) -> None:
    x = torch.randn(64, d_source, generator=seeded(1))
    y = torch.randn(64, d_target, generator=seeded(2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        (module(x) - y).square().sum(1).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.kind}-{s.orthogonal_form}-{s.bias}")
@pytest.mark.parametrize(("d_source", "d_target"), WIDTHS)
def test_the_stated_weight_is_what_the_module_computes(spec, d_source, d_target):
    module = spec.build(d_source, d_target, seeded(), gain=1.5)
    before = module.weight().detach().clone()
    few_steps(module, d_source, d_target)
    weight = module.weight().detach()
    assert weight.shape == (d_target, d_source)
    assert (weight - before).norm() > 1e-3
    x = torch.randn(5, d_source, generator=seeded(3))
    expected = x @ weight.T
    if spec.bias:
        expected = expected + module.bias.detach()
    else:
        assert module.bias is None
    torch.testing.assert_close(module(x).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["cayley", "matrix_exp"])
@pytest.mark.parametrize(("d_source", "d_target"), WIDTHS)
def test_orthogonal_stays_orthogonal_and_learns_its_scale(form, d_source, d_target):
    spec = MapSpec(kind="orthogonal", orthogonal_form=form)
    module = spec.build(d_source, d_target, seeded(), gain=2.0)
    assert float(module.weight().detach().svd().S[0]) == pytest.approx(2.0, rel=1e-4)
    few_steps(module, d_source, d_target)
    singular = torch.linalg.svdvals(module.weight().detach().double())
    assert float(singular.max() / singular.min()) == pytest.approx(1.0, abs=1e-4)
    assert abs(float(singular[0]) - 2.0) > 1e-2


def test_low_rank_has_the_rank_asked_for():
    module = MapSpec(kind="low_rank", rank=3).build(6, 9, seeded())
    few_steps(module, 6, 9)
    singular = torch.linalg.svdvals(module.weight().detach().double())
    assert float(singular[3]) < 1e-6 < 1e-3 < float(singular[2])


@pytest.mark.parametrize("spec", SPECS[2:], ids=lambda s: f"{s.kind}-{s.orthogonal_form}")
def test_the_start_depends_on_the_generator_alone(spec):
    starts = []
    for noise, seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(noise)
        module = spec.build(6, 9, seeded(seed))
        starts.append(dict(module.state_dict()))
    same = all(torch.equal(starts[0][k], starts[1][k]) for k in starts[0])
    other = all(torch.equal(starts[0][k], starts[2][k]) for k in starts[0])
    assert same
    assert not other


def test_weight_decay_reaches_matrices_only():
    for spec in SPECS:
        module = spec.build(6, 9, seeded())
        decayed = module.decayed()
        assert all(parameter.ndim == 2 for parameter in decayed)
        assert (decayed == []) == (spec.kind == "orthogonal")


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7, 7)])
def test_penalty_is_free_of_scale_and_zero_for_orthogonal(shape):
    rotation = random_semi_orthogonal(*shape, seeded()).double()
    for scale in (1e-3, 1.0, 40.0):
        assert float(orthogonality_penalty(scale * rotation)) < 1e-12
    plain = torch.randn(shape, dtype=torch.float64, generator=seeded())
    penalty = float(orthogonality_penalty(plain))
    assert penalty > 0.1
    assert float(orthogonality_penalty(7 * plain)) == pytest.approx(penalty, rel=1e-12)
    squares = torch.linalg.svdvals(plain).square()
    wanted = (squares / squares.mean() - 1).square().mean()
    assert penalty == pytest.approx(float(wanted), rel=1e-10)


def test_random_semi_orthogonal_prefers_no_sign():
    firsts = torch.stack([random_semi_orthogonal(3, 3, seeded(i))[0, 0] for i in range(200)])
    assert 60 < int((firsts > 0).sum()) < 140


@pytest.mark.parametrize(
    ("spec", "setting"),
    [
        (MapSpec(kind="low_rank", rank=7), "map.rank"),
        (MapSpec(kind="low_rank", rank=0), "map.rank"),
        (MapSpec(kind="low_rank"), "map.rank"),
        (MapSpec(kind="orthogonal", rank=3), "map.rank=3"),
        (MapSpec(kind="orthogonal", penalty=0.1), "map.penalty=0.1"),
        (MapSpec(kind="orthogonal_penalty"), "map.penalty"),
        (MapSpec(kind="orthogonal_penalty", penalty=-1.0), "map.penalty"),
        (MapSpec(kind="affine"), "map.kind"),
        (MapSpec(orthogonal_form="cayley"), "map.orthogonal_form=cayley"),
        (MapSpec(kind="orthogonal", orthogonal_form="polar"), "map.orthogonal_form"),
    ],
)
def test_impossible_specs_are_refused(spec, setting):
    with pytest.raises(InvalidValue, match=re.escape(setting)):
        spec.check(6, 9)


def nearest(kind: str, weight: Tensor) -> Tensor:
    """The map of a kind that is nearest to a weight, by its singular values."""
    U, s, Vt = torch.linalg.svd(weight, full_matrices=False)
    if kind == "low_rank":
        s = torch.where(torch.arange(len(s)) < 3, s, 0.0)
    if kind == "orthogonal":
        s = s.mean().expand_as(s)
    return (U * s) @ Vt


@pytest.mark.parametrize("widths", [(6, 9), (9, 6), (6, 6)])
@pytest.mark.parametrize("kind", ["full", "low_rank", "orthogonal", "orthogonal_penalty"])
def test_a_map_starts_at_the_nearest_of_its_kind(kind: str, widths: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(5)
    spec = MapSpec(kind, rank=3 if kind == "low_rank" else None, penalty=0.1 if "penalty" in kind else None)
    d_source, d_target = widths
    weight = torch.randn(d_target, d_source, dtype=torch.float64, generator=generator)
    if kind == "orthogonal" and d_source == d_target:
        # a square turn keeps the sign of the determinant that it begins with, by either start
        weight = torch.linalg.qr(weight).Q
    bias = torch.randn(d_target, dtype=torch.float64, generator=generator)
    learnt = spec.build(d_source, d_target, generator, gain=0.5)
    learnt.start_at(AffineMap(weight, bias))
    torch.testing.assert_close(learnt.weight().double(), nearest(kind, weight), atol=1e-5, rtol=1e-5)
    assert learnt.bias is not None
    torch.testing.assert_close(learnt.bias.double(), bias)
    assert all(parameter.requires_grad for parameter in learnt.parameters())
