from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from lightning.pytorch import Trainer
from planted_features import PlantedFeatures, plant_features
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.features import SaeModule, SaeSpec, score_autoencoder
from lrt.mapping import Moments


class Endless:
    """Rows of one side in batches, of no stated length; the other side holds what cannot be learnt from."""

    def __init__(self, rows: Tensor, side: str, batch_rows: int = 256) -> None:
        other = "target" if side == "source" else "source"
        self.batches = [
            {side: part, other: torch.full((len(part), 2), float("nan"))} for part in rows.split(batch_rows)
        ]

    def __iter__(self):
        return iter(self.batches)


class Batches(Endless):
    def __len__(self) -> int:
        return len(self.batches)


def trainer(folder, **options) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def module_of(planted: PlantedFeatures, spec: SaeSpec, side: str = "source", **options) -> SaeModule:
    width = planted.states.shape[1]
    moments = Moments(width, 2) if side == "source" else Moments(2, width)
    other = torch.arange(2.0 * len(planted.states)).reshape(-1, 2)
    moments.update(*((planted.states, other) if side == "source" else (other, planted.states)))
    return SaeModule.from_moments(spec, moments, side, **options)


@pytest.fixture(scope="module")
def planted() -> PlantedFeatures:
    return plant_features()


@pytest.fixture(scope="module", params=["topk", "jumprelu"])
def trained(request, planted, tmp_path_factory):
    side = "source" if request.param == "topk" else "target"
    spec = SaeSpec(features=48, k=3, kind=request.param, learning_rate=1e-2, dead_after=2000)
    module = module_of(planted, spec, side, layer=2)
    running = trainer(tmp_path_factory.mktemp("sae"), max_epochs=8)
    running.fit(module, Batches(planted.states[:6144], side), Batches(planted.states[6144:], side))
    return module, running


def recovered(module: SaeModule, planted: PlantedFeatures) -> float:
    """Share of planted directions that some decoder row has a cosine above .9 with."""
    rows = module.autoencoder().W_dec
    return float(((rows @ planted.dictionary.T).max(0).values > 0.9).float().mean())


def test_training_recovers_the_planted_dictionary(trained, planted):
    module, running = trained
    assert recovered(module, planted) > 0.9
    assert float(running.callback_metrics["val/fvu"]) < 0.2


def test_before_training_the_dictionary_is_not_there(planted):
    module = module_of(planted, SaeSpec(features=48, k=3))
    assert recovered(module, planted) < 0.2


def test_the_start_is_drawn_by_seed_and_side():
    spec = {"features": 8, "k": 2}
    start = SaeModule(6, spec, "source").learnt.W_dec
    assert torch.equal(SaeModule(6, spec, "source").learnt.W_dec, start)
    for other in (SaeModule(6, spec, "target"), SaeModule(6, spec, "source", seed=1)):
        assert float((other.learnt.W_dec - start).abs().min(1).values.max()) > 0.01


def test_the_export_is_the_module_in_raw_coordinates(trained, planted):
    module, running = trained
    sae = module.autoencoder()
    rows = planted.states[6144:]
    with torch.no_grad():
        assert torch.allclose(sae.reconstruct(rows), module(rows), atol=1e-3)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-5)
    assert (sae.layer, sae.kind, sae.apply_b_dec_to_input) == (2, module.spec.kind, False)
    # Activations are lengths in the states' units, as the planted ones are.
    best = (sae.W_dec @ planted.dictionary.T).max(0)
    found = sae.encode(rows)[:, best.indices]
    both = (found > 0) & (planted.activations[6144:] > 0)
    assert float((found[both] / planted.activations[6144:][both]).median()) == pytest.approx(1, abs=0.15)
    # The logged scores are those of the exported autoencoder on the same rows.
    score = score_autoencoder(sae, rows.split(500))
    for name in ("fvu", "l0", "dead"):
        assert float(running.callback_metrics[f"val/{name}"]) == pytest.approx(getattr(score, name), abs=0.01)


def test_about_k_features_are_on_for_either_kind(trained, planted):
    module, _ = trained
    on = (module.autoencoder().encode(planted.states) > 0).sum(1).float()
    if module.spec.kind == "topk":
        assert on.max() == 3
        assert on.mean() > 2.9
    else:
        assert float(on.mean()) == pytest.approx(3, abs=0.6)
        assert on.unique().numel() > 1


def test_a_checkpoint_reloads_with_weights_only(trained, planted, tmp_path):
    module, running = trained
    running.save_checkpoint(tmp_path / "sae.ckpt")
    again = SaeModule.load_from_checkpoint(tmp_path / "sae.ckpt", weights_only=True)
    assert again.spec == module.spec
    assert torch.equal(again.rows_off, module.rows_off)
    a, b = again.autoencoder(), module.autoencoder()
    assert a.describe() == b.describe()
    assert torch.equal(a.reconstruct(planted.states[:9]), b.reconstruct(planted.states[:9]))


def test_decoder_rows_keep_unit_length_and_their_gradient_is_tangent(planted, tmp_path):
    module = module_of(planted, SaeSpec(features=16, k=2))
    x = planted.states[:64]
    module.configure_optimizers()
    (x - module(x)).square().mean().backward()
    before = (module.learnt.W_dec.grad * module.learnt.W_dec).sum(1).abs().max()
    module.on_before_optimizer_step(torch.optim.SGD(module.parameters(), lr=1.0))
    assert (module.learnt.W_dec.grad * module.learnt.W_dec).sum(1).abs().max() < 1e-5 * before
    trainer(tmp_path, max_epochs=1).fit(module, Batches(planted.states[:1024], "source"))
    assert torch.allclose(module.learnt.W_dec.norm(dim=1), torch.ones(16), atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_a_dead_feature_learns_through_the_auxiliary_loss_alone(planted, tmp_path, weight):
    spec = SaeSpec(features=16, k=2, dead_after=300, auxiliary_weight=weight)
    module = module_of(planted, spec)
    # On in every row, but never among the two largest.
    module.learnt.W_enc.data[:, 5] = 0.0
    module.learnt.b_enc.data[5] = 1e-3
    start = module.learnt.W_enc[:, 5].detach().clone()
    trainer(tmp_path, max_epochs=1).fit(module, Batches(planted.states[:2048], "source"))
    assert torch.equal(module.learnt.W_enc[:, 5].detach(), start) == (weight == 0.0)


def readable(**settings) -> tuple[SaeModule, dict[str, Tensor]]:
    """A module of width 4 whose pre-activations are its input rows, and what it logs."""
    module = SaeModule(4, {"features": 4, "k": 1} | settings, "source")
    module.learnt.W_enc.data = torch.eye(4)
    logged: dict[str, Tensor] = {}
    module.log = logged.__setitem__
    return module, logged


def test_a_feature_is_dead_when_it_was_inactive_for_so_many_rows():
    module, logged = readable(dead_after=20)
    one, other = torch.eye(4)[[0]].expand(10, 4), torch.eye(4)[[1]].expand(10, 4)
    module.training_step({"source": one}, 0)
    assert (module.rows_off.tolist(), float(logged["train/dead"])) == ([0, 10, 10, 10], 0)
    module.training_step({"source": other}, 1)
    assert (module.rows_off.tolist(), float(logged["train/dead"])) == ([10, 0, 20, 20], 0.5)


def test_thresholds_learn_by_the_slope_of_a_ramp():
    module, logged = readable(kind="jumprelu", bandwidth=0.5)
    module.learnt.threshold.data = torch.ones(4)
    module.learnt.W_dec.data = torch.zeros(4, 4)  # leaves the penalty (L0 / k - 1)^2 alone with a gradient
    row = {"source": torch.tensor([[1.1, 0.9, 3.0, -1.0]])}
    module.training_step(row, 0).backward()
    assert float(logged["train/l0"]) == 2
    # Within half a bandwidth of the threshold the slope of L0 is -1 / bandwidth, and 0 elsewhere.
    assert module.learnt.threshold.grad.tolist() == [-4, -4, 0, 0]
    assert not module.learnt.b_enc.grad.any()
    # The encoder learns from the reconstruction error of the active features.
    module, _ = readable(kind="jumprelu", bandwidth=0.5, l0_weight=0.0)
    module.learnt.threshold.data = torch.ones(4)
    module.learnt.W_dec.data = torch.eye(4)
    module.learnt.b_dec.data = torch.ones(4)
    module.training_step(row, 0).backward()
    torch.testing.assert_close(module.learnt.b_enc.grad, torch.tensor([0.5, 0.0, 0.5, 0.0]))


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        ({"kind": "relu"}, "analysis.sae.kind"),
        ({"k": 0}, "analysis.sae.k"),
        ({"k": 17}, "analysis.sae.k"),
        ({"features": 0}, "analysis.sae.features"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"bandwidth": float("inf")}, "bandwidth"),
        ({"l0_weight": -1.0}, "l0_weight"),
        ({"auxiliary_weight": float("nan")}, "auxiliary_weight"),
        ({"dead_after": 0}, "dead_after"),
    ],
)
def test_settings_that_are_not_allowed_are_named(changed, setting):
    with pytest.raises(InvalidValue, match=re.escape(setting)):
        SaeSpec(**({"features": 16, "k": 2} | changed)).check(24)


def test_what_cannot_be_trained_is_refused(planted, tmp_path):
    spec = SaeSpec(features=16, k=2)
    with pytest.raises(ValueError, match="both"):
        SaeModule(24, {"features": 16, "k": 2}, "both")
    still = Moments(3, 2)
    still.update(torch.ones(10, 3), torch.randn(10, 2))
    with pytest.raises(InvalidValue):
        SaeModule.from_moments(SaeSpec(features=4, k=1), still, "source")
    module = module_of(planted, spec)
    with pytest.raises(ValueError, match="number of steps"):
        trainer(tmp_path, max_epochs=1).fit(module, Endless(planted.states, "source"))
    bad = planted.states[:512].clone()
    bad[3] = float("inf")
    with pytest.raises(FloatingPointError, match=r"filter\.max_norm_ratio"):
        trainer(tmp_path, max_epochs=1).fit(module_of(planted, spec), Batches(bad, "source"))


def test_the_rate_rises_holds_and_falls(planted, tmp_path):
    module = module_of(planted, SaeSpec(features=8, k=1, learning_rate=0.5))
    rates = []
    before = module.on_train_batch_start

    def noted(batch, batch_idx):
        before(batch, batch_idx)
        rates.append(module.optimizers(False).param_groups[0]["lr"])

    module.on_train_batch_start = noted
    trainer(tmp_path, max_epochs=2).fit(module, Batches(planted.states[:1280], "source", batch_rows=64))
    assert len(rates) == 40
    assert rates[0] == pytest.approx(0.25)
    assert rates[2:32] == pytest.approx([0.5] * 30)
    assert rates[-1] == pytest.approx(0.5 / 8)
    assert all(a >= b for a, b in pairwise(rates[2:]))
