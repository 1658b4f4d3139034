"""Fit a map by gradient steps, as a LightningModule."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torchmetrics import Metric

from lrt.errors import UserError
from lrt.mapping.affine import AffineMap
from lrt.mapping.fit_spec import FitSpec
from lrt.mapping.metrics import ErrorAlong, FractionUnexplained, MeanCosine, collect
from lrt.mapping.moments import Moments
from lrt.mapping.parametrisations import MapSpec, TrainableMap, orthogonality_penalty
from lrt.mapping.ridge import RidgeFit
from lrt.mapping.whitening import Whitening


class FitDiverged(UserError, FloatingPointError):
    """A loss that is not finite; the message names the settings to change."""


class MapModule(LightningModule):
    """Minimises `E ||A h_S + p - h_T||^2` (paper section 2.1) by gradient steps on paired rows.

    Batches are dictionaries with `source` `[n, d_source]` and `target` `[n, d_target]`. It logs

    - `train/fvu`: squared error over the target's training variance; `train/loss` adds ridge and penalty;
    - per epoch, over all rows of the validation (`val/`) or test (`test/`) split and in the models' own
      coordinates: `fvu`, `r2`, `cosine`, `error_along/<vector>`, and `excess = fvu / optimum - 1` where the
      optimum is known.

    Build one with `from_moments`. The constructor takes plain data only, so that checkpoints reload with
    `weights_only=True`; it leaves the whitening to be loaded from a checkpoint.
    """

    def __init__(
        self,
        d_source: int,
        d_target: int,
        map: dict[str, Any],
        fit: dict[str, Any],
        l2: float = 0.0,
        optimum: dict[str, float] | None = None,
        vectors: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.d_source, self.d_target = d_source, d_target
        self.map_spec = MapSpec(**map)
        self.fit_spec = FitSpec(**fit)
        self.map_spec.check(d_source, d_target)
        self.fit_spec.check(self.map_spec)
        self.l2 = l2
        self.optimum = dict(optimum or {})
        self.whitening = Whitening(d_source, d_target, self.fit_spec.whitening_for(self.map_spec))
        self.learnt = self._start(seed)
        # Placeholders of the right shapes, filled by `from_moments` or a checkpoint.
        names = list(vectors or [])
        self.score_names = ["fvu", "cosine", *(f"error_along/{name}" for name in names)]
        self.scores = _scores(torch.zeros(d_target), [torch.ones(d_target) for _ in names])

    @classmethod
    def from_moments(
        cls,
        map_spec: MapSpec,
        fit_spec: FitSpec,
        train: Moments,
        *,
        reference_ridge: RidgeFit | None = None,
        optimum: dict[str, float] | None = None,
        vectors: dict[str, Tensor] | None = None,
        start: AffineMap | None = None,
        seed: int = 0,
    ) -> MapModule:
        """A module ready to fit.

        train            Moments of exactly the training rows.
        reference_ridge  The ridge fit whose weight `fit.ridge` adds to the loss.
        optimum          FVU of the optimum by split, for `excess`; by default that of `reference_ridge` on
                         the validation rows.
        vectors          Target directions `[d_target]` by name.
        start            Initialise at this map, or at the nearest one of the kind.
        seed             Seed of the random start of the orthogonal kinds.

        Raises InvalidValue for settings that are not allowed, ValueError for other widths or a missing
        reference ridge.
        """
        map_spec.check(train.d_source, train.d_target)
        fit_spec.check(map_spec)
        # The orthogonal kind takes no ridge, which could only shrink its scale.
        penalised = fit_spec.ridge and map_spec.kind != "orthogonal"
        if penalised and reference_ridge is None:
            raise ValueError("fit.ridge=true needs a reference ridge; pass one, or set fit.ridge=false")
        l2 = reference_ridge.weight / train.count if penalised and reference_ridge is not None else 0.0
        if optimum is None and reference_ridge is not None:
            optimum = {"val": reference_ridge.fvu_validation}
        vectors = vectors or {}
        for name, vector in vectors.items():
            if vector.shape != (train.d_target,):
                raise ValueError(f"vector {name!r} must be [{train.d_target}], got {list(vector.shape)}")
        module = cls(
            train.d_source,
            train.d_target,
            map=asdict(map_spec),
            fit=asdict(fit_spec),
            l2=l2,
            optimum=optimum,
            vectors=list(vectors),
            seed=seed,
        )
        module.whitening = Whitening.from_moments(
            train,
            module.whitening.mode,
            l2=l2,
            floor=fit_spec.whitening_floor,
            bias=map_spec.bias,
        )
        module.learnt = module._start(seed, float(module.whitening.gain))
        if start is not None:
            module.learnt.start_at(module.whitening.unfold(start))
        module.scores = _scores(train.mean_y.cpu(), list(vectors.values()))
        return module

    def _start(self, seed: int, gain: float = 1.0) -> TrainableMap:
        generator = torch.Generator().manual_seed(seed)
        return self.map_spec.build(self.d_source, self.d_target, generator, gain)

    def forward(
        self,
        x: Tensor,  # [n, d_source]
    ) -> Tensor:  # [n, d_target], float32
        """Map source states to target states, both in the models' own coordinates."""
        whitened: Tensor = self.learnt(self.whitening.source(x))
        return self.whitening.target_back(whitened)

    def affine(self) -> AffineMap:
        """The current map in the models' own coordinates; float32, detached."""
        weight = self.learnt.weight().detach().double()
        bias = self.learnt.bias
        folded = self.whitening.fold(
            AffineMap(weight, weight.new_zeros(self.d_target) if bias is None else bias.detach().double())
        )
        return folded.to(torch.float32)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:  # noqa: ARG002
        x, y = self.whitening.source(batch["source"]), self.whitening.target(batch["target"])
        gap = self.learnt(x).float() - y
        fvu: Tensor = gap.square().sum(1).mean() / self.whitening.variance
        loss: Tensor = fvu + self._regularisation(fvu.device.type)
        if not loss.isfinite():
            raise FitDiverged(
                f"the fit diverged: the loss is {float(loss)} at step {self.global_step}. Lower "
                f"fit.learning_rate={self.fit_spec.learning_rate}, set fit.gradient_clip, or whiten the "
                "inputs (fit.whitening=auto)"
            )
        self.log("train/fvu", fvu.detach())
        self.log("train/loss", loss.detach())
        return loss

    def _regularisation(self, device_type: str) -> Tensor | float:
        total: Tensor | float = 0.0
        # Both terms would vanish in half precision, and cost little in float32.
        with torch.autocast(device_type, enabled=False):
            if self.l2:
                squares = self.learnt.weight().square() * self.whitening.column_cost()
                total = total + self.l2 * squares.sum() / self.whitening.variance
            if self.map_spec.penalty is not None:
                raw = self.whitening.raw_weight(self.learnt.weight())
                total = total + self.map_spec.penalty * orthogonality_penalty(raw)
        return total

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:  # noqa: ARG002
        self._score("val", batch)

    def test_step(self, batch: dict[str, Tensor], batch_index: int) -> None:  # noqa: ARG002
        self._score("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _score(self, split: str, batch: dict[str, Tensor]) -> None:
        predicted = self(batch["source"])
        for score in self._scores_of(split):
            score.update(predicted, batch["target"])

    def _log_scores(self, split: str) -> None:
        values = collect(self.trainer, split, zip(self.score_names, self._scores_of(split), strict=True))
        values[f"{split}/r2"] = 1 - values[f"{split}/fvu"]
        if split in self.optimum:
            values[f"{split}/excess"] = values[f"{split}/fvu"] / self.optimum[split] - 1
        self.log_dict(values, prog_bar=False, sync_dist=True)

    def _scores_of(self, split: str) -> list[Metric]:
        return [cast("Metric", score) for score in cast("nn.ModuleList", self.scores[split])]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decayed = self.learnt.decayed()
        shrinkable = {id(parameter) for parameter in decayed}
        free = [p for p in self.learnt.parameters() if id(p) not in shrinkable]
        return self.fit_spec.build_optimizer(decayed, free)

    # The learning rate is set here instead of by a scheduler. A scheduler needs the number of steps in
    # `configure_optimizers`. Asking for it there makes Lightning 2.6 set up the training loader before it
    # restores the loader's state from a checkpoint, and that state is lost.
    def on_train_start(self) -> None:
        steps = self.trainer.estimated_stepping_batches
        # Lightning returns infinity or -1 where it does not know.
        if not 0 < steps < math.inf:
            raise ValueError(
                "the learning rate schedule needs the number of steps: set fit.epochs, and pass a training "
                "loader that has a length"
            )
        self._steps = int(steps)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        rate = self.fit_spec.rate_at(min(self.global_step, self._steps - 1), self._steps)
        for group in cast("torch.optim.Optimizer", self.optimizers(False)).param_groups:
            group["lr"] = rate
        self.log("train/learning_rate", rate)


def early_stopping(fit: FitSpec) -> EarlyStopping | None:
    """The callback for `fit.patience`, which monitors `val/fvu`; None without patience."""
    if fit.patience is None:
        return None
    return EarlyStopping(
        monitor="val/fvu",
        mode="min",
        patience=fit.patience,
        min_delta=fit.least_improvement,
    )


def _scores(
    centre: Tensor,  # [d_target]
    vectors: list[Tensor],  # of [d_target]
) -> nn.ModuleDict:
    d_target = len(centre)
    return nn.ModuleDict(
        {
            split: nn.ModuleList(
                [
                    FractionUnexplained(d_target, centre),
                    MeanCosine(),
                    *(ErrorAlong(vector, centre) for vector in vectors),
                ]
            )
            for split in ("val", "test")
        }
    )
