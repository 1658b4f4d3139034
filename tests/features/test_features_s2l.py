from __future__ import annotations

import lightning as L
import pytest
import torch
from planted_features import plant_features
from torch.utils.data import DataLoader

from lrt.errors import InvalidValue
from lrt.features import (
    EncodedRows,
    SparseAutoencoder,
    behaviour_features,
    decoded_direction,
    feature_direction,
    feature_moments,
    fit_s2l,
)
from lrt.mapping import AffineMap, FitSpec, MapModule, MapSpec, Moments, ridge_path


@pytest.fixture(scope="module")
def world():
    """Targets that are linear in the source's features, by a map that is not linear in its states."""
    planted = plant_features(width=16, features=24, rows=4000, active=2)
    sae = SparseAutoencoder(
        planted.dictionary.T,
        -(planted.dictionary @ planted.mean) - 1.5,
        planted.dictionary,
        planted.mean,
        "relu",
    )
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(24, 10, generator=generator)  # [m, d_target]
    offset = 7 * torch.randn(10, generator=generator)
    target = sae.encode(planted.states).detach() @ images + offset
    batches = [
        {"source": s, "target": t} for s, t in zip(planted.states.split(500), target.split(500), strict=True)
    ]
    fit = fit_s2l(feature_moments(sae, batches[:6]), feature_moments(sae, batches[6:]))
    return planted, sae, images, offset, batches, fit


def test_the_images_of_features_are_recovered(world):
    _, _, images, offset, _, fit = world
    assert fit.fvu_validation < 1e-6
    assert torch.allclose(fit.map.weight, images.T.double(), atol=1e-2)
    assert torch.allclose(fit.map.bias, offset.double(), atol=1e-2)


def test_training_on_encoded_rows_comes_to_the_solved_map(world):
    _, sae, _, _, batches, fit = world

    class Rows(L.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(batches[:6], batch_size=None)

    train = feature_moments(sae, batches[:6])
    spec = FitSpec(epochs=50, whitening_floor=1e-9)
    module = MapModule.from_moments(MapSpec("full"), spec, train, reference_ridge=fit)
    trainer = L.Trainer(
        max_epochs=spec.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=EncodedRows(Rows(), sae))
    held_out = feature_moments(sae, batches[6:])
    assert held_out.fvu_of(module.affine()) < 1e-4
    assert torch.allclose(module.affine().weight.double(), fit.map.weight, atol=0.05)


def test_encoding_on_another_device_leaves_the_callers_autoencoder_in_place(world):
    planted, sae, *_ = world
    before = sae.encode(planted.states[:3])
    encoded = EncodedRows(L.LightningDataModule(), sae)
    states = planted.states[:3].to("meta")
    batch = encoded.on_after_batch_transfer({"source": states, "target": states}, 0)
    assert batch["source"].device == states.device
    assert batch["source"].shape == (3, 24)
    assert batch["target"] is states
    assert {parameter.device.type for parameter in sae.parameters()} == {"cpu"}
    assert torch.equal(sae.encode(planted.states[:3]), before)


def test_a_map_of_states_cannot_explain_what_features_do(world):
    *_, batches, fit = world
    moments = [Moments(16, 10), Moments(16, 10)]
    for i, batch in enumerate(batches):
        moments[i >= 6].update(batch["source"], batch["target"])
    assert ridge_path(*moments).fvu_validation > 0.05 > fit.fvu_validation


def test_a_direction_is_the_difference_that_coefficients_make(world):
    _, _, images, _, _, fit = world
    c = torch.zeros(24)
    c[3], c[8] = 2.0, -1.0
    direction = feature_direction(fit.map, c)
    assert torch.allclose(direction, fit.map.points(c) - fit.map.points(torch.zeros(24)))
    assert torch.allclose(direction.float(), 2 * images[3] - images[8], atol=0.05)


def test_l2l_transfers_the_same_coefficients_through_the_decoder(world):
    _, sae, *_ = world
    l2l = AffineMap(torch.randn(10, 16, generator=torch.Generator().manual_seed(0)), torch.ones(10))
    c = torch.zeros(24)
    c[3], c[8] = 2.0, -1.0
    expected = l2l.weight @ (2 * sae.W_dec[3] - sae.W_dec[8]).detach()
    assert torch.allclose(decoded_direction(l2l, sae, c).detach(), expected, atol=1e-5)


def test_where_the_target_is_linear_in_the_states_both_roads_agree(world):
    planted, sae, *_ = world
    generator = torch.Generator().manual_seed(5)
    l2l = AffineMap(torch.randn(10, 16, generator=generator), torch.randn(10, generator=generator))
    # Features that reconstruct exactly, so that states are linear in them.
    f = planted.activations
    moments = [Moments(24, 10), Moments(24, 10)]
    moments[0].update(f[:3000], l2l.points(f[:3000] @ sae.W_dec.detach()))
    moments[1].update(f[3000:], l2l.points(f[3000:] @ sae.W_dec.detach()))
    s2l = fit_s2l(*moments).map
    c = torch.randn(24, generator=generator)
    c -= c.mean()  # two features are on in every row, so their common shift is not seen
    both = feature_direction(s2l, c).float(), decoded_direction(l2l, sae, c).detach()
    assert float(torch.cosine_similarity(*both, dim=0)) > 0.99


def test_more_features_than_rows_are_fitted_with_a_weight():
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(30, 50, generator=generator).relu()
    f[:, 7] = 0.0
    images = torch.randn(50, 4, generator=generator)
    train, validation = Moments(50, 4), Moments(50, 4)
    train.update(f[:20], f[:20] @ images)
    validation.update(f[20:], f[20:] @ images)
    fit = fit_s2l(train, validation)
    assert fit.weight > 0
    assert fit.map.weight.isfinite().all()
    assert fit.map.weight[:, 7].abs().max() < 1e-6 < fit.map.weight.abs().max()
    with pytest.raises(ValueError, match=r"must be above 0, got \[0.0, 1.0\]"):
        fit_s2l(train, validation, [0.0, 1.0])


def test_the_features_of_a_behaviour_are_those_that_were_planted(world):
    planted, sae, *_ = world
    generator = torch.Generator().manual_seed(6)
    ground = planted.mean + 0.3 * torch.randn(200, 16, generator=generator)
    behaviour = 6 * planted.dictionary[4] - 4 * planted.dictionary[9]
    found = behaviour_features(
        sae, ground[:100] + 6 * planted.dictionary[4], ground[100:] + 4 * planted.dictionary[9], top=2
    )
    assert found.features.tolist() == [4, 9]
    assert found.coefficients[4] > 2 > 0 > found.coefficients[9]
    assert found.coefficients.count_nonzero() == 2
    assert found.cosine > 0.95
    transferred = sae.decode_direction(found.coefficients)
    assert float(torch.cosine_similarity(transferred, behaviour, dim=0)) > 0.95
    every = behaviour_features(sae, ground[:100] + behaviour, ground[100:])
    assert len(every.features) == every.coefficients.count_nonzero() > 2


def test_features_are_ranked_by_their_length_in_the_stream():
    rows = torch.eye(3)
    sae = SparseAutoencoder(
        torch.eye(3), torch.zeros(3), rows * torch.tensor([[1.0], [10], [1]]), torch.zeros(3), "relu"
    )
    found = behaviour_features(sae, torch.tensor([[3.0, 1.0, 2.0]]), torch.zeros(1, 3))
    assert found.features.tolist() == [1, 0, 2]
    assert found.coefficients.tolist() == [3, 1, 2]


def test_what_cannot_be_transferred_is_refused(world):
    _, sae, _, _, batches, fit = world
    x = batches[0]["source"]
    with pytest.raises(ValueError, match=r"positives must be states \[n, 16\].*got \[5, 3\]"):
        behaviour_features(sae, torch.ones(5, 3), x)
    with pytest.raises(ValueError, match=r"negatives must be states .*n at least 1; got \[0, 16\]"):
        behaviour_features(sae, x, x[:0])
    with pytest.raises(InvalidValue):
        behaviour_features(sae, x / 0, x)
    with pytest.raises(InvalidValue):
        behaviour_features(sae, x, x, top=25)
    with pytest.raises(InvalidValue):
        behaviour_features(sae, x, x)
    with pytest.raises(ValueError, match=r"s2l maps 24 features, got coefficients \[23\]"):
        feature_direction(fit.map, torch.ones(23))
    with pytest.raises(
        ValueError, match=r"24 features of width 16; got coefficients \[24\] and a map from width 24"
    ):
        decoded_direction(fit.map, sae, torch.ones(24))
    with pytest.raises(ValueError, match=r"rows \[n, 16\], got \[500, 10\]"):
        feature_moments(sae, [{"source": batches[0]["target"], "target": x}])
    with pytest.raises(InvalidValue):
        feature_moments(sae, [])
    with pytest.raises(InvalidValue):
        feature_moments(sae, [{"source": x, "target": batches[0]["target"] / 0}])
