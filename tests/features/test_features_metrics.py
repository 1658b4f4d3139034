from __future__ import annotations

import pytest
import torch
from planted_features import random_autoencoder

from lrt.errors import InvalidValue
from lrt.features import DeadShare, MeanActive, SparseAutoencoder, score_autoencoder

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) + 4


def test_streamed_figures_equal_those_of_all_rows():
    sae = random_autoencoder("jumprelu")
    f = sae.encode(X).detach()
    error = (X - sae.decode(f).detach()).double().square().sum()
    score = score_autoencoder(sae, X.split(77))
    assert score.rows == 300
    assert score.l0 == pytest.approx(float((f > 0).sum(1).double().mean()))
    assert score.dead == pytest.approx(float(((f > 0).sum(0) == 0).double().mean()))
    assert score.fvu == pytest.approx(float(error / (X - X.mean(0)).double().square().sum()), rel=1e-4)


def test_a_perfect_and_an_empty_autoencoder():
    both_signs = torch.cat([torch.eye(6), -torch.eye(6)])
    perfect = SparseAutoencoder(both_signs.T, torch.zeros(12), both_signs, torch.zeros(6), "relu")
    assert score_autoencoder(perfect, [X]).fvu == pytest.approx(0, abs=1e-9)
    never = torch.full((10,), -1e6)
    mean_only = SparseAutoencoder(torch.ones(6, 10), never, torch.ones(10, 6), X.mean(0), "relu")
    score = score_autoencoder(mean_only, X.split(100))
    assert (score.l0, score.dead) == (0, 1)
    assert score.fvu == pytest.approx(1, rel=1e-5)


def test_a_feature_is_dead_only_when_off_in_every_batch():
    dead, active = DeadShare(3), MeanActive()
    for f in (torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 2.0, 0], [0, 0, 0]])):
        dead.update(f)
        active.update(f)
    assert float(dead.compute()) == pytest.approx(1 / 3)
    assert float(active.compute()) == pytest.approx(2 / 3)


def test_rows_that_cannot_be_scored_are_named():
    sae = random_autoencoder("relu")
    with pytest.raises(ValueError, match=r"rows \[n, 6\], got \[3, 5\]"):
        score_autoencoder(sae, [torch.ones(3, 5)])
    with pytest.raises(InvalidValue):
        score_autoencoder(sae, [X / 0])
    with pytest.raises(InvalidValue):
        score_autoencoder(sae, [])
