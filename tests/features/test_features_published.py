from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from planted_features import random_autoencoder
from safetensors.torch import save_file

from lrt.errors import InvalidValue
from lrt.features import (
    SaeCorrupt,
    SaeForeign,
    SaeMissing,
    check_fits,
    load_gemma_scope,
    load_published,
    load_saelens,
)

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))


def weights_of(kind: str) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in random_autoencoder(kind).named_parameters()}


def gemma_scope(folder, weights=None):
    folder.mkdir(parents=True, exist_ok=True)
    weights = weights_of("jumprelu") if weights is None else weights
    np.savez(folder / "params.npz", **{name: w.numpy() for name, w in weights.items()})
    return folder


def saelens(folder, config, weights):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def config(architecture="standard", **changed):
    metadata = {"model_name": "gpt2", "hook_name": "blocks.4.hook_resid_post"}
    return {"architecture": architecture, "d_in": 6, "d_sae": 10, "metadata": metadata} | changed


def test_gemma_scope_is_jumprelu_with_its_decoder_bias_left_in_the_input(tmp_path):
    w = weights_of("jumprelu")
    folder = gemma_scope(tmp_path / "layer_20" / "width_16k" / "average_l0_71", w)
    z = X @ w["W_enc"] + w["b_enc"]
    f = torch.where(z > w["threshold"], z, 0.0)
    for path in (folder, folder / "params.npz"):
        sae = load_published(path)
        assert sae.layer == 20
        assert torch.equal(sae.encode(X), f)
        assert torch.equal(sae.reconstruct(X), f @ w["W_dec"] + w["b_dec"])
    assert not any(p.requires_grad for p in sae.parameters())


def test_the_layer_of_gemma_scope_is_read_through_the_links_of_a_cache(tmp_path):
    blob = gemma_scope(tmp_path / "blobs") / "params.npz"
    cached = tmp_path / "models--google--gemma-scope-2b-pt-res" / "layer_7"
    cached.mkdir(parents=True)
    (cached / "params.npz").symlink_to(blob)
    assert load_gemma_scope(cached).layer == 7
    assert load_gemma_scope(blob).layer is None
    assert load_gemma_scope(blob, layer=5).layer == 5
    with pytest.raises(SaeForeign):
        load_gemma_scope(cached, layer=5)


@pytest.mark.parametrize(
    "site", ["models--google--gemma-scope-2b-pt-mlp", "gemma-scope-9b-pt-att", "embedding"]
)
def test_gemma_scope_of_another_site_is_refused(tmp_path, site):
    folder = gemma_scope(tmp_path / site / "layer_3")
    with pytest.raises(SaeForeign):
        load_gemma_scope(folder)


def test_faults_of_a_gemma_scope_file_are_named(tmp_path):
    with pytest.raises(SaeMissing):
        load_gemma_scope(tmp_path)
    w = weights_of("jumprelu")
    gemma_scope(tmp_path, {name: t for name, t in w.items() if name != "threshold"})
    with pytest.raises(SaeMissing):
        load_gemma_scope(tmp_path)
    gemma_scope(tmp_path, w | {"b_enc": torch.full((10,), float("nan"))})
    with pytest.raises(SaeCorrupt):
        load_gemma_scope(tmp_path)
    gemma_scope(tmp_path, w | {"W_dec": w["W_dec"].T.contiguous()})
    with pytest.raises(SaeForeign):
        load_gemma_scope(tmp_path)
    (tmp_path / "params.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(SaeCorrupt):
        load_gemma_scope(tmp_path)
    with pytest.raises(SaeMissing):
        load_published(tmp_path / "nothing")


@pytest.mark.parametrize("subtracted", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_saelens_files_load_to_their_formula(tmp_path, architecture, subtracted):
    kind = "relu" if architecture == "standard" else architecture
    w = weights_of(kind)
    settings = {"apply_b_dec_to_input": subtracted}
    if kind == "topk":
        settings["k"] = 3
    sae = load_published(saelens(tmp_path, config(architecture, **settings), w))
    z = (X - w["b_dec"] * subtracted) @ w["W_enc"] + w["b_enc"]
    if kind == "relu":
        f = z.clamp(min=0)
    elif kind == "jumprelu":
        f = torch.where(z > w["threshold"], z, 0.0)
    else:
        f = torch.where(z >= z.sort(1).values[:, -3:-2], z, 0.0).clamp(min=0)
    assert (sae.kind, sae.layer) == (kind, 4)
    assert torch.allclose(sae.encode(X), f, atol=1e-6)
    assert torch.allclose(sae.reconstruct(X), f @ w["W_dec"] + w["b_dec"], atol=1e-5)


def test_saelens_configs_from_before_version_6(tmp_path):
    w = weights_of("topk")
    old = {
        "d_in": 6,
        "d_sae": 10,
        "hook_point": "blocks.8.hook_resid_pre",
        "hook_point_layer": 8,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 2},
        "normalize_activations": False,
    }
    sae = load_saelens(saelens(tmp_path, old, w))
    # The state before block 8 is block 7's output; the decoder bias leaves the input by default.
    assert (sae.kind, sae.k, sae.layer, sae.apply_b_dec_to_input) == ("topk", 2, 7, True)


def test_a_logarithm_of_the_threshold_is_undone(tmp_path):
    w = weights_of("jumprelu")
    logged = {name: t for name, t in w.items() if name != "threshold"} | {
        "log_threshold": w["threshold"].log()
    }
    sae = load_saelens(saelens(tmp_path, config("jumprelu"), logged))
    assert torch.allclose(sae.threshold, w["threshold"], rtol=1e-5)


def test_activations_scaled_by_decoder_norms_are_folded_exactly(tmp_path):
    w = weights_of("topk")
    sae = load_saelens(saelens(tmp_path, config("topk", k=3, rescale_acts_by_decoder_norm=True), w))
    norms = w["W_dec"].norm(dim=1)
    z = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms
    f = torch.where(z >= z.sort(1).values[:, -3:-2], z, 0.0).clamp(min=0)
    assert torch.allclose(sae.encode(X), f, atol=1e-5)
    assert torch.allclose(sae.reconstruct(X), (f / norms) @ w["W_dec"] + w["b_dec"], atol=1e-5)


def with_hook(name, **more):
    return {"metadata": {"hook_name": name} | more}


@pytest.mark.parametrize(
    "changed",
    [
        {"architecture": "gated"},
        {"activation_fn": "tanh-relu"},
        {"architecture": "topk"},
        {"normalize_activations": "layer_norm"},
        {"finetuning_scaling_factor": True},
        {"reshape_activations": "hook_z"},
        {"d_in": 768},
        with_hook("blocks.4.hook_mlp_out"),
        with_hook("blocks.0.hook_resid_pre"),
        with_hook("blocks.4.hook_resid_post", hook_layer=5),
        with_hook("model.layers.4.mlp"),
        with_hook("model.layers.4.mlp.layers.0"),
        with_hook("model.vision_tower.encoder.layers.4"),
        *(
            with_hook(f"model.{tower}.layers.4")
            for tower in ("vit", "vpm", "audio_tower", "layers.4.mlp.experts")
        ),
        *(with_hook(f"{part}.layers.4") for part in ("resampler", "multi_modal_projector", "talker.model")),
        with_hook("layers"),
    ],
    ids=str,
)
def test_saelens_settings_that_are_not_supported_are_refused(tmp_path, changed):
    with pytest.raises(SaeForeign, match=r"cfg\.json"):
        load_saelens(saelens(tmp_path, config(**changed), weights_of("relu")))


@pytest.mark.parametrize(
    "hook",
    [
        *("model.layers.4", "model.language_model.layers.4", "language_model.model.layers.4", "h.4"),
        *("gpt_neox.layers.4", "transformer.h.4", "transformer.blocks.4", "backbone.layers.4"),
        *("model.decoder.layers.4", "blocks.4.hook_resid_post"),
    ],
)
def test_every_name_of_a_block_is_its_layer(tmp_path, hook):
    changed = config(**with_hook(hook, hook_layer=4))
    assert load_saelens(saelens(tmp_path, changed, weights_of("relu"))).layer == 4


def test_faults_of_a_saelens_folder_are_named(tmp_path):
    w = weights_of("relu")
    with pytest.raises(SaeForeign):
        load_saelens(saelens(tmp_path, config(), w), layer=2)
    with pytest.raises(SaeMissing):
        load_saelens(saelens(tmp_path, config(), {n: t for n, t in w.items() if n != "W_dec"}))
    with pytest.raises(SaeCorrupt):
        load_saelens(saelens(tmp_path, config(), w | {"W_enc": w["W_enc"] / 0}))
    with pytest.raises(SaeForeign):
        load_saelens(saelens(tmp_path, config(), w | {"scaling_factor": torch.full((10,), 2.0)}))
    assert load_saelens(saelens(tmp_path, config(), w | {"scaling_factor": torch.ones(10)})).kind == "relu"
    nameless = config() | {"metadata": {}}
    assert load_saelens(saelens(tmp_path, nameless, w), layer=2).layer == 2
    (tmp_path / "sae_weights.safetensors").write_bytes(b"short")
    with pytest.raises(SaeCorrupt):
        load_saelens(tmp_path)
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(SaeMissing):
        load_saelens(tmp_path)


def test_another_width_or_layer_is_named_with_both_values():
    sae = random_autoencoder("relu", layer=4)
    check_fits(sae, width=6, layer=4)
    with pytest.raises(InvalidValue) as width:
        check_fits(sae, width=8, layer=4)
    assert "layer" not in str(width.value).split(".")[0]
    with pytest.raises(InvalidValue):
        check_fits(sae, width=6, layer=2)
    with pytest.raises(InvalidValue):
        check_fits(sae, width=8, layer=2)
    with pytest.raises(InvalidValue):
        check_fits(random_autoencoder("relu"), width=6, layer=2)
