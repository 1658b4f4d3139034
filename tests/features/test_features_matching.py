from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lrt.errors import InvalidValue
from lrt.features import CoActivation, match_correlated, match_features


def sparse(rows: int, features: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, features, generator=generator) - 1).relu() + 100.0


@given(cuts=st.lists(st.integers(1, 399), max_size=6), seed=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_streamed_correlation_equals_numpys(cuts, seed):
    a, b = sparse(400, 5, seed) - 100, sparse(400, 7, seed + 1) - 100
    bounds = sorted({0, *cuts, 400})
    together = CoActivation(5, 7)
    for start, stop in pairwise(bounds):
        together.update(a[start:stop], b[start:stop])
    whole = np.corrcoef(a.double().numpy(), b.double().numpy(), rowvar=False)[:5, 5:]
    assert np.abs(together.correlation().numpy() - whole).max() < 1e-5
    assert together.count == 400


def test_a_feature_that_never_changes_correlates_with_none():
    a = torch.zeros(50, 2)
    a[::2, 1] = 1.0
    b = torch.stack([a[:, 1], torch.full((50,), 0.1)], dim=1)
    together = CoActivation(2, 2)
    together.update(a, b)
    assert together.correlation().tolist() == [[0, 0], [pytest.approx(1), 0]]
    assert match_correlated(together.correlation()).a.tolist() == [1]


def test_permuted_and_rescaled_features_find_their_partners():
    a = sparse(2000, 40, 0) - 100
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    noise = 0.2 * torch.randn(2000, 40, generator=torch.Generator().manual_seed(2))
    b = 3 * (a + noise)[:, order]
    found = match_features(a, b)
    assert torch.equal(order[found.b], found.a)
    assert len(found) == 40
    assert (found.correlation.diff() <= 0).all()
    # Where true partners stand out, greedy is the optimum.
    correlation = np.corrcoef(a.T, b.T)[:40, 40:]
    rows, columns = linear_sum_assignment(-correlation)
    assert float(found.correlation.sum()) == pytest.approx(correlation[rows, columns].sum(), rel=1e-5)


@given(
    rows=st.integers(1, 12), columns=st.integers(1, 12), levels=st.integers(1, 50), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_greedy_is_one_to_one_complete_and_at_least_half_the_optimum(rows, columns, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    # Few levels make ties.
    correlation = (torch.randint(1, levels + 1, (rows, columns), generator=generator) / levels).double()
    found = match_correlated(correlation)
    assert len(found) == min(rows, columns)
    assert found.a.unique().numel() == found.b.unique().numel() == len(found)
    assert torch.equal(correlation[found.a, found.b], found.correlation)
    best = correlation[linear_sum_assignment(-correlation.numpy())].sum()
    assert best + 1e-9 >= found.correlation.sum() >= best / 2 - 1e-9
    assert float(found.correlation[0]) == float(correlation.max())


def test_pairs_that_do_not_correlate_enough_are_left_out():
    correlation = torch.tensor([[0.9, 0.1], [0.2, -0.5]])
    assert match_correlated(correlation).a.tolist() == [0]
    assert match_correlated(torch.tensor([[0.9, 0.1], [0.2, 0.5]]), least=0.5).a.tolist() == [0]
    assert len(match_correlated(-torch.ones(3, 2))) == 0


def test_what_cannot_be_matched_is_named():
    together = CoActivation(3, 2)
    with pytest.raises(InvalidValue):
        together.correlation()
    with pytest.raises(
        ValueError, match=r"\[n, 3\] and \[n, 2\] of the same tokens, got \[4, 3\] and \[5, 2\]"
    ):
        together.update(torch.ones(4, 3), torch.ones(5, 2))
    with pytest.raises(InvalidValue):
        together.update(torch.ones(4, 3), torch.ones(4, 2) / 0)
    assert together.count == 0
    with pytest.raises(ValueError, match="at least one feature, got 0 and 2"):
        CoActivation(0, 2)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got 1"):
        match_correlated(torch.ones(2, 2), least=1)
    with pytest.raises(ValueError, match=r"finite \[m_a, m_b\]"):
        match_correlated(torch.tensor([[float("nan")]]))
