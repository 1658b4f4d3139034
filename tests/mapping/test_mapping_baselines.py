from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import Moments, ridge_path
from lrt.mapping.baselines import from_embeddings, identity, mean_only


def gathered(x: Tensor, y: Tensor) -> Moments:
    moments = Moments(x.shape[1], y.shape[1], products="float64")
    moments.update(x, y)
    return moments


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def world(d_source: int = 6, d_target: int = 9) -> tuple[Tensor, Tensor, Moments, Tensor]:
    """Embeddings and hidden states that one map links, at means that have nothing in common."""
    truth = normal(0, d_target, d_source)
    source = normal(1, 400, d_source)
    target = source @ truth.T + 0.5 * normal(2, 400, d_target) + 5
    x = 3 * normal(3, 1000, d_source) + 7
    train = gathered(x, x @ truth.T + normal(4, 1000, d_target) - 20)
    return source, target, train, truth


def test_mean_only_scores_one():
    *_, train, _ = world()
    affine = mean_only(train)
    assert train.fvu_of(affine) == pytest.approx(1.0, abs=1e-12)
    assert not affine.weight.any()
    assert affine.weight.shape == (9, 6)


def test_identity_is_perfect_for_rows_that_are_shifted_and_beaten_for_rows_that_are_turned():
    x = normal(0, 300, 5)
    shifted = gathered(x, x + torch.arange(5))
    affine = identity(shifted)
    assert torch.equal(affine.weight, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(affine.bias, torch.arange(5).double())
    assert shifted.fvu_of(affine) == pytest.approx(0.0, abs=1e-12)
    turned = gathered(x, x.roll(1, dims=1))
    assert turned.fvu_of(identity(turned)) > 1.5
    assert ridge_path(turned, turned).fvu_validation < 1e-6


def test_identity_names_both_widths_where_they_differ():
    with pytest.raises(InvalidValue):
        identity(world()[2])


def test_embeddings_of_the_same_map_give_that_of_hidden_states():
    source, target, train, truth = world()
    affine = from_embeddings(source, target, train)
    assert affine.weight.dtype == torch.float64
    assert (affine.weight - truth).norm() < 0.05 * truth.norm()
    best = ridge_path(train, train)
    assert best.fvu_validation < train.fvu_of(affine) < best.fvu_validation + 0.02
    # The bias is of the hidden states, whose mean the embeddings know nothing of.
    torch.testing.assert_close(affine.points(train.mean_x), train.mean_y)


def test_it_is_the_ridge_on_all_tokens_at_a_weight_chosen_on_every_tenth():
    source, target, train, _ = world()
    held_out = torch.arange(400) % 10 == 0
    fitting, choosing = (gathered(source[part], target[part]) for part in (~held_out, held_out))
    weight = ridge_path(fitting, choosing).weight / 0.9
    oracle = Ridge(alpha=weight).fit(source.numpy(), target.numpy())
    affine = from_embeddings(source, target, train)
    # Chunk products are float32 here.
    torch.testing.assert_close(affine.weight, torch.from_numpy(oracle.coef_), rtol=0, atol=1e-5)


def test_embeddings_whose_tokens_do_not_correspond_explain_next_to_nothing():
    source, target, train, _ = world()
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    affine = from_embeddings(source, target[order], train)
    assert train.fvu_of(affine) > 0.9
    assert train.fvu_of(from_embeddings(source, target, train)) < 0.2


def test_half_precision_and_rows_that_are_never_trained_are_taken():
    source, target, train, truth = world()
    padding = torch.zeros(40, 1, dtype=torch.float64)
    source = torch.cat([source, padding.expand(40, 6)]).bfloat16()
    target = torch.cat([target - 5, padding.expand(40, 9)]).bfloat16()
    affine = from_embeddings(source, target, train)
    assert (affine.weight - truth).norm() < 0.06 * truth.norm()


def test_errors_name_what_is_wrong():
    source, target, train, _ = world()
    with pytest.raises(InvalidValue):
        from_embeddings(source, target[:390], train)
    with pytest.raises(ValueError, match=r"source embedding must be \[vocabulary, 6\] .* got \[400, 9\]"):
        from_embeddings(target, source, train)
    with pytest.raises(ValueError, match=r"target embedding must be \[vocabulary, 9\]"):
        from_embeddings(source, target[0], train)
    broken = target.clone()
    broken[[3, 5], 2] = torch.tensor([torch.nan, torch.inf], dtype=torch.float64)
    with pytest.raises(InvalidValue, match=r"pair\.target"):
        from_embeddings(source, broken, train)
    with pytest.raises(InvalidValue):
        from_embeddings(source[:19], target[:19], train)
    with pytest.raises(InvalidValue):
        from_embeddings(torch.ones(400, 6), target, train)
