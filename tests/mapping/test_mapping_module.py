from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from planted_rows import Planted, plant
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping import (
    FitSpec,
    MapModule,
    MapSpec,
    Moments,
    closed_form,
    early_stopping,
    orthogonality_penalty,
    ridge_path,
)


class Batches:
    """Paired rows in batches, in an order that (seed, epoch) fixes; stateful, for resuming."""

    def __init__(self, rows: tuple[Tensor, Tensor], batch_rows: int, shuffled: bool) -> None:
        self.rows, self.batch_rows, self.shuffled = rows, batch_rows, shuffled
        self.epoch, self.batch = -1, 0
        self.resumed = False

    def __len__(self) -> int:
        return len(self.rows[0]) // self.batch_rows

    def __iter__(self):
        # Lightning leaves an iterator at its known length without exhausting it, and the sanity
        # check leaves one early: a new epoch starts here and nowhere else.
        if not self.resumed:
            self.epoch, self.batch = self.epoch + 1, 0
        self.resumed = False
        generator = torch.Generator().manual_seed(100 + self.epoch)
        count = len(self.rows[0])
        order = torch.randperm(count, generator=generator) if self.shuffled else torch.arange(count)
        while self.batch < len(self):
            picked = order[self.batch * self.batch_rows :][: self.batch_rows]
            self.batch += 1
            yield {"source": self.rows[0][picked], "target": self.rows[1][picked]}

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.resumed = self.batch < len(self)


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


def fitted(
    planted: Planted,
    folder,
    map_spec: MapSpec,
    fit: FitSpec,
    vectors: dict[str, Tensor] | None = None,
    **options,
) -> tuple[MapModule, Trainer]:
    module = MapModule.from_moments(
        map_spec,
        fit,
        planted.train_moments,
        reference_ridge=planted.reference_ridge,
        vectors=vectors,
    )
    running = trainer(folder, **fit.trainer_options(), **options)
    running.fit(
        module,
        Batches(planted.train, 256, shuffled=True),
        Batches(planted.validation, 256, shuffled=False),
    )
    return module, running


def test_default_fit_ends_within_two_percent_of_the_optimum(planted, tmp_path):
    module, running = fitted(planted, tmp_path, MapSpec(), FitSpec())
    found = planted.validation_moments.fvu_of(module.affine())
    optimum = planted.reference_ridge.fvu_validation
    assert found < 1.02 * optimum
    # Both roads also lead to the same weights, in the metric of the source rows.
    gap = module.affine().weight.double() - planted.reference_ridge.map.weight
    scatter = planted.train_moments.scatter_xx
    size = planted.reference_ridge.map.weight
    assert ((gap @ scatter) * gap).sum() < 0.02 * ((size @ scatter) * size).sum()
    logged = running.callback_metrics
    assert float(logged["val/fvu"]) == pytest.approx(found, rel=1e-4)
    assert float(logged["val/excess"]) == pytest.approx(found / optimum - 1, abs=1e-4)
    assert float(logged["val/r2"]) == pytest.approx(1 - found, rel=1e-4)
    assert float(logged["train/fvu"]) == pytest.approx(found, rel=0.3)
    predicted = planted.reference_ridge.map.points(planted.validation[0])
    cosine = torch.cosine_similarity(predicted, planted.validation[1]).mean()
    assert float(logged["val/cosine"]) == pytest.approx(float(cosine), abs=1e-2)


def test_without_whitening_the_same_fit_does_not_get_there(planted, tmp_path):
    module, _ = fitted(planted, tmp_path, MapSpec(), FitSpec(whitening="scale"))
    assert planted.validation_moments.fvu_of(module.affine()) > (1.2 * planted.reference_ridge.fvu_validation)


def test_where_rows_are_few_the_ridge_in_the_loss_is_needed(tmp_path):
    generator = torch.Generator().manual_seed(0)
    few = plant(torch.randn(24, 60, generator=generator), condition=100.0, noise=6.0, rows=256)
    excess = {}
    for ridge in (True, False):
        fit = FitSpec(ridge=ridge, epochs=150)
        module, _ = fitted(few, tmp_path, MapSpec(), fit)
        fvu = few.validation_moments.fvu_of(module.affine())
        excess[ridge] = fvu / few.reference_ridge.fvu_validation - 1
    assert excess[True] < 0.02 < 0.05 < excess[False]


def test_adamw_learns_raw_rows_where_they_are_well_conditioned(tmp_path):
    # The paper's optimiser in the paper's coordinates, at a rate that suits a short run.
    generator = torch.Generator().manual_seed(1)
    easy = plant(torch.randn(9, 6, generator=generator), condition=2.0, noise=1.0, offset=0.5)
    fit = FitSpec("AdamW", 0.2, {}, "linear", whitening="none", ridge=False, epochs=12)
    module, running = fitted(easy, tmp_path, MapSpec(), fit)
    found = easy.validation_moments.fvu_of(module.affine())
    assert found < 1.05 * easy.reference_ridge.fvu_validation
    # The loss reads as FVU in these coordinates too.
    assert float(running.callback_metrics["train/fvu"]) == pytest.approx(found, rel=0.3)


def test_a_map_without_bias_matches_its_own_optimum(planted, tmp_path):
    reference_ridge = ridge_path(planted.train_moments, planted.validation_moments, bias=False)
    # Its targets keep their large means, so it has further to go.
    fit = FitSpec(epochs=12)
    module = MapModule.from_moments(
        MapSpec(bias=False), fit, planted.train_moments, reference_ridge=reference_ridge
    )
    trainer(tmp_path, **fit.trainer_options()).fit(module, Batches(planted.train, 256, True))
    affine = module.affine()
    assert affine.bias.abs().max() == 0
    assert planted.validation_moments.fvu_of(affine) < 1.02 * reference_ridge.fvu_validation


@pytest.mark.parametrize(
    "spec",
    [
        MapSpec(kind="low_rank", rank=4),
        MapSpec(kind="orthogonal"),
        MapSpec(kind="orthogonal_penalty", penalty=10.0),
    ],
    ids=lambda spec: spec.kind,
)
def test_restricted_maps_keep_their_shape_when_folded_back(planted, tmp_path, spec):
    module, running = fitted(planted, tmp_path, spec, FitSpec(learning_rate=0.02))
    affine = module.affine()
    x, _ = planted.validation
    torch.testing.assert_close(affine.points(x), module(x).detach(), rtol=1e-3, atol=2e-3)
    found = planted.validation_moments.fvu_of(affine)
    assert found == pytest.approx(float(running.callback_metrics["val/fvu"]), rel=1e-3)
    assert found < 1.0
    singular = torch.linalg.svdvals(affine.weight.double())
    defect = float(orthogonality_penalty(affine.weight.double()))
    free = float(orthogonality_penalty(planted.reference_ridge.map.weight))
    match spec.kind:
        case "low_rank":
            assert singular[4] < 1e-5 * singular[0] < singular[3]
        case "orthogonal":
            assert defect < 1e-6
        case "orthogonal_penalty":
            assert defect < 0.05 < free


def planted_rotation(tmp_path, spec: MapSpec) -> float:
    """Excess FVU of a fit to a scaled semi-orthogonal map, over the unrestricted optimum."""
    generator = torch.Generator().manual_seed(2)
    rotation = 1.7 * torch.linalg.qr(torch.randn(10, 6, generator=generator)).Q
    rows = plant(rotation, condition=4.0, noise=0.2)
    module, _ = fitted(rows, tmp_path, spec, FitSpec(epochs=16))
    if spec.kind == "orthogonal":
        singular = torch.linalg.svdvals(module.affine().weight.double())
        assert float(singular[0]) == pytest.approx(1.7, rel=0.02)
    return rows.validation_moments.fvu_of(module.affine()) / rows.reference_ridge.fvu_validation - 1


@pytest.mark.parametrize("form", ["cayley", pytest.param("matrix_exp", marks=pytest.mark.slow)])
def test_a_planted_rotation_and_its_scale_are_found(tmp_path, form):
    spec = MapSpec(kind="orthogonal", orthogonal_form=form)
    assert planted_rotation(tmp_path, spec) < 0.02


def test_the_penalty_costs_nothing_where_the_truth_is_orthogonal(tmp_path):
    assert planted_rotation(tmp_path, MapSpec(kind="orthogonal_penalty", penalty=0.1)) < 0.02


def test_error_along_each_vector_is_scored(planted, tmp_path):
    generator = torch.Generator().manual_seed(9)
    vectors = {"french": torch.randn(16, generator=generator), "a.b": torch.eye(16)[3]}
    fit = FitSpec(epochs=1)
    module, running = fitted(planted, tmp_path, MapSpec(), fit, vectors=vectors)
    for name, vector in vectors.items():
        wanted = planted.validation_moments.error_along(module.affine(), vector)
        found = float(running.callback_metrics[f"val/error_along/{name}"])
        assert found == pytest.approx(wanted, rel=1e-3)


def test_test_rows_are_scored_against_their_own_optimum(planted, tmp_path):
    module = MapModule.from_moments(
        MapSpec(),
        FitSpec(),
        planted.train_moments,
        reference_ridge=planted.reference_ridge,
        optimum={"val": 0.5, "test": 0.25},
    )
    scores = trainer(tmp_path).test(module, Batches(planted.validation, 256, False), verbose=False)[0]
    # Unfitted, a full map is the mean predictor.
    assert scores["test/fvu"] == pytest.approx(1.0, abs=0.01)
    assert scores["test/excess"] == pytest.approx(scores["test/fvu"] / 0.25 - 1, rel=1e-5)


class Interrupt(Callback):
    """Writes a checkpoint after a given step and stops there, as if killed."""

    def __init__(self, path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("spec", "fit"),
    [
        (MapSpec(), FitSpec(epochs=3)),
        (MapSpec(kind="orthogonal"), FitSpec("AdamW", 0.01, {}, "linear", epochs=3)),
    ],
    ids=["sgd", "adamw-orthogonal"],
)
@pytest.mark.parametrize("step", [32, 41], ids=["at the end of an epoch", "within an epoch"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(planted, tmp_path, spec, fit, step):
    whole, _ = fitted(planted, tmp_path, spec, fit)
    path = tmp_path / "half.ckpt"
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fitted(planted, tmp_path, spec, fit, callbacks=[Interrupt(path, step)])
    # Everything comes from the checkpoint: the module is made anew, without the moments.
    module = MapModule.load_from_checkpoint(path, weights_only=True)
    halfway = module.affine()
    running = trainer(tmp_path, **fit.trainer_options())
    running.fit(
        module,
        Batches(planted.train, 256, shuffled=True),
        Batches(planted.validation, 256, shuffled=False),
        ckpt_path=path,
        weights_only=True,
    )
    assert running.global_step == 96
    assert not torch.equal(halfway.weight, whole.affine().weight)
    assert torch.equal(module.affine().weight, whole.affine().weight)
    assert torch.equal(module.affine().bias, whole.affine().bias)


def test_a_checkpoint_is_a_whole_map_with_its_scores(planted, tmp_path):
    vectors = {"french": torch.arange(16.0)}
    module, running = fitted(planted, tmp_path, MapSpec(), FitSpec(epochs=1), vectors=vectors)
    running.save_checkpoint(tmp_path / "fit.ckpt")
    again = MapModule.load_from_checkpoint(tmp_path / "fit.ckpt", weights_only=True)
    assert torch.equal(again.affine().weight, module.affine().weight)
    assert again.optimum == {"val": planted.reference_ridge.fvu_validation}
    scores = trainer(tmp_path).validate(again, Batches(planted.validation, 256, False), verbose=False)[0]
    for name in ("val/fvu", "val/error_along/french", "val/excess"):
        assert scores[name] == pytest.approx(float(running.callback_metrics[name]), rel=1e-5)


def test_patience_stops_a_fit_that_no_longer_improves(planted, tmp_path):
    fit = FitSpec(epochs=40, schedule="constant", patience=2, least_improvement=0.01)
    stopping = early_stopping(fit)
    assert isinstance(stopping, EarlyStopping)
    _, running = fitted(planted, tmp_path, MapSpec(), fit, callbacks=[stopping])
    assert running.current_epoch < 10
    assert early_stopping(FitSpec()) is None


def test_bfloat16_mixed_precision_stays_near_the_optimum(planted, tmp_path):
    module, _ = fitted(planted, tmp_path, MapSpec(), FitSpec(), precision="bf16-mixed")
    found = planted.validation_moments.fvu_of(module.affine())
    assert found < 1.02 * planted.reference_ridge.fvu_validation


def test_a_diverging_fit_names_the_setting(planted, tmp_path):
    with pytest.raises(FloatingPointError, match=r"fit\.learning_rate"):
        fitted(planted, tmp_path, MapSpec(), FitSpec(learning_rate=1000.0))


def test_errors_name_what_is_wrong(planted, tmp_path):
    moments = planted.train_moments
    with pytest.raises(ValueError, match=r"set fit\.ridge=false"):
        MapModule.from_moments(MapSpec(), FitSpec(), moments)
    with pytest.raises(InvalidValue, match=r"map\.rank"):
        MapModule.from_moments(MapSpec(kind="low_rank", rank=13), FitSpec(ridge=False), moments)
    with pytest.raises(ValueError, match="french"):
        MapModule.from_moments(MapSpec(), FitSpec(ridge=False), moments, vectors={"french": torch.ones(12)})
    with pytest.raises(InvalidValue):
        MapModule.from_moments(MapSpec(), FitSpec(ridge=False), Moments(3, 3))
    endless = torch.utils.data.DataLoader(Endless(), batch_size=None)
    module = MapModule.from_moments(MapSpec(), FitSpec(ridge=False), moments)
    with pytest.raises(ValueError, match=r"set fit\.epochs.*has a length"):
        trainer(tmp_path, max_epochs=2).fit(module, endless)


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield {"source": torch.zeros(4, 12), "target": torch.zeros(4, 16)}


KINDS = [
    MapSpec(),
    MapSpec(kind="low_rank", rank=4),
    MapSpec(kind="orthogonal"),
    MapSpec(kind="orthogonal_penalty", penalty=0.1),
]


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.kind)
def test_a_fit_that_starts_at_the_optimum_is_there_and_stays(planted, tmp_path, spec):
    best = closed_form(spec, planted.train_moments, planted.validation_moments).map
    fit = FitSpec(ridge=spec.kind == "full", epochs=1, learning_rate=1e-3, schedule="constant", warmup=0.0)
    module = MapModule.from_moments(
        spec, fit, planted.train_moments, reference_ridge=planted.reference_ridge, start=best
    )
    at_start = planted.train_moments.fvu_of(module.affine())
    assert at_start == pytest.approx(planted.train_moments.fvu_of(best), rel=1e-3)
    running = trainer(tmp_path, **fit.trainer_options())
    held_out = Batches(planted.validation, 256, shuffled=False)
    running.fit(module, Batches(planted.train, 256, shuffled=True), held_out)
    assert planted.train_moments.fvu_of(module.affine()) < 1.02 * at_start
    # and a fit that begins elsewhere is far off after as little
    far = MapModule.from_moments(spec, fit, planted.train_moments, reference_ridge=planted.reference_ridge)
    assert planted.train_moments.fvu_of(far.affine()) > 1.2 * at_start
