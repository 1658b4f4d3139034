from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_features import random_autoencoder

from lrt.features import (
    SaeCorrupt,
    SaeForeign,
    SaeMissing,
    SparseAutoencoder,
    load_autoencoder,
    save_autoencoder,
)
from lrt.storage.sealed import sealed

KINDS = ("relu", "topk", "jumprelu")
ROWS = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))


def parts(**changed):
    weights = {
        "W_enc": torch.ones(4, 5),
        "b_enc": torch.zeros(5),
        "W_dec": torch.ones(5, 4),
        "b_dec": torch.zeros(4),
        "kind": "relu",
    }
    return weights | changed


@given(k=st.integers(1, 10), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_topk_keeps_exactly_the_k_largest(k, seed):
    sae = random_autoencoder("topk", k=k, seed=seed)
    lifted = SparseAutoencoder(sae.W_enc, sae.b_enc + 100, sae.W_dec, sae.b_dec, "topk", k=k)
    z = lifted.pre_activations(ROWS)
    f = lifted.encode(ROWS)
    assert ((f > 0).sum(1) == k).all()
    least_kept = torch.where(f > 0, f, torch.inf).min(1).values
    largest_left = torch.where(f > 0, -torch.inf, z).max(1).values
    assert (least_kept >= largest_left).all()
    assert torch.equal(f[f > 0], z[f > 0])


def test_topk_turns_no_negative_feature_on():
    sae = random_autoencoder("topk", k=10)
    f, z = sae.encode(ROWS), sae.pre_activations(ROWS)
    assert (z < 0).any()
    assert torch.equal(f, z.relu())


def test_jumprelu_is_zero_up_to_its_threshold_and_unshifted_above():
    sae = SparseAutoencoder(
        torch.eye(4),
        torch.zeros(4),
        torch.eye(4),
        torch.zeros(4),
        "jumprelu",
        threshold=torch.full((4,), 0.5),
    )
    f = sae.encode(torch.tensor([[0.5, 0.5001, 0.4999, -2.0]]))
    assert torch.equal(f, torch.tensor([[0.0, 0.5001, 0.0, 0.0]]))
    free = SparseAutoencoder(
        torch.eye(4), torch.zeros(4), torch.eye(4), torch.zeros(4), "jumprelu", threshold=torch.zeros(4)
    )
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(free.encode(x), x.relu())


def test_the_decoder_bias_leaves_the_input_only_where_the_file_says_so():
    plain = random_autoencoder("relu")
    less = random_autoencoder("relu", apply_b_dec_to_input=True)
    assert torch.allclose(less.encode(ROWS + less.b_dec), plain.encode(ROWS), atol=1e-5)
    assert not torch.allclose(less.encode(ROWS), plain.encode(ROWS), atol=0.1)


def test_reconstruction_is_decoded_encoding_and_directions_have_no_bias():
    sae = random_autoencoder("jumprelu")
    f = sae.encode(ROWS)
    assert torch.equal(sae(ROWS), f @ sae.W_dec + sae.b_dec)
    assert torch.allclose(sae.decode_direction(f[0] - f[1]), sae.decode(f[0]) - sae.decode(f[1]), atol=1e-5)
    assert sae.encode(ROWS.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "gated"}, "gated"),
        ({"W_enc": torch.ones(4)}, "W_enc"),
        ({"W_dec": torch.ones(4, 5)}, "W_dec"),
        ({"b_enc": torch.ones(4)}, "b_enc"),
        ({"b_dec": torch.tensor([0, 0, 0, float("nan")])}, "b_dec"),
        ({"kind": "topk"}, "topk"),
        ({"kind": "topk", "k": 6}, "k must"),
        ({"k": 2}, "relu"),
        ({"kind": "jumprelu"}, "threshold"),
        ({"threshold": torch.ones(5)}, "threshold"),
        ({"kind": "jumprelu", "threshold": -torch.ones(5)}, "-1"),
        ({"layer": -1}, "layer"),
    ],
)
def test_parts_that_do_not_go_together_are_named(changed, message):
    SparseAutoencoder(**parts())
    with pytest.raises(ValueError, match=message):
        SparseAutoencoder(**parts(**changed))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded(tmp_path, kind):
    sae = random_autoencoder(kind, layer=3, apply_b_dec_to_input=True)
    save_autoencoder(tmp_path / "a" / "sae", sae, {"model": "small"})
    found, card = load_autoencoder(tmp_path / "a" / "sae")
    assert card == {"model": "small"}
    assert found.describe() == sae.describe()
    assert found.describe()["layer"] == 3
    assert torch.equal(found(ROWS), sae(ROWS))
    assert not any(p.requires_grad for p in found.parameters())
    assert sorted(p.name for p in (tmp_path / "a" / "sae").iterdir()) == ["sae.json", "sae.safetensors"]


def test_damage_is_noticed_and_names_the_fix(tmp_path):
    fix_hint = "Make it with: train"
    with pytest.raises(SaeMissing, match=fix_hint):
        load_autoencoder(tmp_path, fix_hint)
    save_autoencoder(tmp_path, random_autoencoder("topk"), {})
    weights, card = tmp_path / "sae.safetensors", tmp_path / "sae.json"
    text = card.read_text()
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(SaeCorrupt):
        load_autoencoder(tmp_path, fix_hint)
    save_autoencoder(tmp_path, random_autoencoder("topk"), {})
    for change, error in (
        ({"format": "lrt-map"}, SaeForeign),
        ({"version": 99}, SaeForeign),
        ({"autoencoder": {}}, SaeCorrupt),
        ({"autoencoder": json.loads(text)["autoencoder"] | {"kind": "relu"}}, SaeForeign),
    ):
        card.write_text(sealed(json.loads(text) | change))
        with pytest.raises(error):
            load_autoencoder(tmp_path)
    card.write_text("{")
    with pytest.raises(SaeCorrupt):
        load_autoencoder(tmp_path)
