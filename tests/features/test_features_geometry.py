from __future__ import annotations

import pytest
import torch
from planted_features import plant_features, random_autoencoder, unit_rows

from lrt.errors import InvalidValue
from lrt.features import SaeModule, SparseAutoencoder, compare_decoders, decoder_map, random_like

WIDTH_A, WIDTH_B, FEATURES = 16, 24, 160


@pytest.fixture(scope="module")
def related():
    """Two autoencoders with the true dictionaries of linearly related models, in another order."""
    planted = plant_features(WIDTH_A, FEATURES, rows=6000, active=2)
    generator = torch.Generator().manual_seed(7)
    linear = torch.linalg.qr(torch.randn(WIDTH_B, WIDTH_A, generator=generator)).Q * 2
    order = torch.randperm(FEATURES, generator=generator)
    other = (planted.dictionary @ linear.T)[order]
    a = SparseAutoencoder(
        planted.dictionary.T,
        -(planted.dictionary @ planted.mean) - 2.5,
        planted.dictionary,
        planted.mean,
        "relu",
    )
    b = SparseAutoencoder(
        other.T / 4, -(other @ (linear @ planted.mean)) / 4 - 2.5, other, linear @ planted.mean, "relu"
    )
    states_b = planted.states @ linear.T + 0.05 * torch.randn(6000, WIDTH_B, generator=generator)
    rows = list(zip(planted.states.split(1000), states_b.split(1000), strict=True))
    return a, b, rows, order


def test_related_decoders_differ_from_both_nulls_in_both_directions(related):
    a, b, rows, order = related
    score = compare_decoders(a, b, iter(rows))
    assert float((order[score.matching.b] == score.matching.a).float().mean()) > 0.95
    assert score.matched.fitted + score.matched.scored == len(score.matching)
    assert score.random_pairs > FEATURES / 2
    for way in ("forward", "backward"):
        true, random, shuffled = (
            getattr(getattr(score, name), way) for name in ("matched", "random", "shuffled")
        )
        assert true.r2.low > 0.95
        assert true.cosine.low > 0.95
        # Random directions that are on together are related where the states are, but less.
        assert random.r2.high < 0.7 < true.r2.low
        assert shuffled.r2.value < 0.1
        assert abs(shuffled.cosine.value) < 0.2


def test_a_null_that_finds_too_few_pairs_leaves_the_true_score(related):
    a, b, rows, _ = related
    # the planted features correlate almost perfectly; directions at random do not
    strict = compare_decoders(a, b, iter(rows), least=0.9)
    assert strict.random is None
    assert strict.random_pairs < 16 < len(strict.matching)
    assert strict.matched.forward.r2.low > 0.95
    assert strict.shuffled.forward.r2.value < 0.1
    with pytest.raises(InvalidValue, match=r"analysis\.sae\.least_correlation"):
        compare_decoders(a, b, iter(rows), least=0.99999)


def test_unrelated_decoders_score_at_chance():
    generator = torch.Generator().manual_seed(0)
    score = decoder_map(unit_rows(400, 20, generator), unit_rows(400, 30, generator))
    for way in (score.forward, score.backward):
        assert way.r2.low < 0.05
        assert way.r2.value < 0.05
        assert abs(way.cosine.value) < 0.15
    assert (score.fitted, score.scored) == (200, 200)


def test_a_planted_linear_map_between_rows_is_found_whatever_their_lengths():
    generator = torch.Generator().manual_seed(1)
    D = torch.randn(120, 20, generator=generator)
    turned = D @ torch.linalg.qr(torch.randn(30, 20, generator=generator)).Q.T
    lengths = torch.rand(120, 1, generator=generator) + 0.5
    score = decoder_map(D, turned * lengths, ridge=1e-6)
    for way in (score.forward, score.backward):
        assert way.r2.value > 0.999
        assert way.ridge == 1e-6
        assert way.fvu.value == pytest.approx(1 - way.r2.value, abs=1e-12)
    # More dimensions than fitted pairs: without a chosen weight there is no fit.
    wide = decoder_map(D[:24], turned[:24])
    assert wide.forward.ridge > 0
    assert wide.forward.r2.value < 0.999


def test_intervals_hold_the_figure_shrink_with_pairs_and_repeat():
    generator = torch.Generator().manual_seed(2)
    D = unit_rows(1600, 12, generator)
    noisy = D + 0.2 * torch.randn(1600, 12, generator=generator)
    many, few = (decoder_map(D[:n], noisy[:n]).forward.r2 for n in (1600, 64))
    for interval in (many, few):
        assert interval.low < interval.value < interval.high
    assert many.high - many.low < 0.5 * (few.high - few.low)
    assert decoder_map(D, noisy).forward.r2 == many
    assert decoder_map(D, noisy, seed=1).forward.r2 != many


def test_a_random_autoencoder_has_learnt_nothing_but_the_mean():
    sae = random_autoencoder("jumprelu", layer=3)
    random = random_like(sae, 4, torch.Generator().manual_seed(0))
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)) + sae.b_dec
    assert random.layer == 3
    assert ((random.encode(x) > 0).sum(1) <= 4).all()
    assert torch.allclose(random.W_dec.norm(dim=1), torch.ones(10))
    assert torch.equal(random.b_dec, sae.b_dec)
    assert not torch.allclose(random.W_dec, sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True), atol=0.1)


def test_the_random_null_is_not_the_start_of_a_training_with_the_same_seed(monkeypatch, related):
    a, b, rows, _ = related
    drawn = []

    def noted(sae, k, generator):
        drawn.append(random_like(sae, k, generator))
        return drawn[-1]

    monkeypatch.setattr("lrt.features.geometry.random_like", noted)
    compare_decoders(a, b, rows[:1], seed=3)
    starts = [
        SaeModule(sae.width, {"features": FEATURES, "k": 2}, side, seed=seed).learnt.W_dec
        for sae in (a, b)
        for side in ("source", "target")
        for seed in range(4)
    ]
    same = [
        float((null.W_dec - start).abs().max()) < 1e-3
        for null in drawn
        for start in starts
        if null.W_dec.shape == start.shape
    ]
    assert len(same) == 16
    assert not any(same)


def test_what_cannot_be_compared_is_named(related):
    a, b, rows, _ = related
    D = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"\[40, 5\] and \[39, 5\]"):
        decoder_map(D, D[1:])
    with pytest.raises(InvalidValue):
        decoder_map(D[:15], D[:15])
    with pytest.raises(ValueError, match=r"ridge must be above 0 .* got 0"):
        decoder_map(D, D, ridge=0)
    with pytest.raises(ValueError, match="D_b has rows that are zero or not finite"):
        decoder_map(D, D * (torch.arange(40) > 0)[:, None])
    with pytest.raises(ValueError, match=r"autoencoder b reads rows \[n, 24\], got \[1000, 16\]"):
        compare_decoders(a, b, [(rows[0][0], rows[0][0])])
    with pytest.raises(InvalidValue):
        compare_decoders(a, b, [])
