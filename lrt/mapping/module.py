"""The gradient fit of a map as a LightningModule."""

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
    """Learns `E ||A h_S + p - h_T||^2` (paper section 2.1) by gradient steps on paired rows.

    Batches are dictionaries with `source` `[n, d_source]` and `target` `[n, d_target]`. The loss
    is the squared error over the target's training variance, so it reads as FVU whatever the
    coordinates; `train/fvu` is it, `train/loss` adds ridge and penalty. Per validation and test
    epoch, over all rows and in the models' own coordinates: `val/fvu`, `val/r2`, `val/cosine`,
    `val/error_along/<vector>`, and `val/excess` = `fvu / optimum - 1` where the optimum is known.

    Build one with `from_moments`. The constructor takes plain containers alone, so that
    checkpoints reload with `weights_only=True`, and leaves the whitening for a checkpoint to fill.
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
        # Placeholders of the right shapes, for `from_moments` or a checkpoint to fill.
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

        `train` are the moments of exactly the training rows. `reference_ridge` is the ridge fit whose
        weight `fit.ridge` puts in the loss, and whose validation FVU is the optimum of `val/excess`
        unless `optimum` (`{"val": ..., "test": ...}`) says otherwise. `vectors` are target
        directions `[d_target]` by name; `start` is a map to begin from (the nearest one of the kind), and
        `seed` draws the start of the kinds that need one where it is not given.
        Raises ValueError where specs, widths and moments do not go together.
        """
        map_spec.check(train.d_source, train.d_target)
        fit_spec.check(map_spec)
        # A ridge has no part in the orthogonal kind: it could only shrink the scale.
        shrunk = fit_spec.ridge and map_spec.kind != "orthogonal"
        if shrunk and reference_ridge is None:
            raise ValueError(
                "fit.ridge=true needs the ridge fit that it takes its weight from; give one or set "
                "fit.ridge=false"
            )
        l2 = reference_ridge.weight / train.count if shrunk and reference_ridge is not None else 0.0
        if optimum is None and reference_ridge is not None:
            optimum = {"val": reference_ridge.fvu_validation}
        vectors = vectors or {}
        for name, vector in vectors.items():
            if vector.shape != (train.d_target,):
                raise ValueError(
                    f"vector {name!r} has shape {list(vector.shape)}, the target's width is {train.d_target}"
                )
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
        module.scores = _scores(train.mean_y, list(vectors.values()))
        return module

    def _start(self, seed: int, gain: float = 1.0) -> TrainableMap:
        generator = torch.Generator().manual_seed(seed)
        return self.map_spec.build(self.d_source, self.d_target, generator, gain)

    def forward(
        self,
        x: Tensor,  # [n, d_source]
    ) -> Tensor:  # [n, d_target], float32
        """Images of source states, both in the models' own coordinates."""
        image: Tensor = self.learnt(self.whitening.source(x))
        return self.whitening.target_back(image)

    def affine(self) -> AffineMap:
        """The map as it stands, folded into the models' own coordinates; float32, detached."""
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
        # Half precision would swamp both terms; neither is worth it.
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
        values = collect(split, zip(self.score_names, self._scores_of(split), strict=True))
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

    # The rate is set here and not by a scheduler from `configure_optimizers`: that would have to
    # ask for `trainer.estimated_stepping_batches`, which makes Lightning 2.6 set up the training
    # loader before the checkpoint's loader state is there to be restored, and drop that state.
    def on_train_start(self) -> None:
        steps = self.trainer.estimated_stepping_batches
        # Lightning says infinity, or -1, where it cannot tell.
        if not 0 < steps < math.inf:
            raise ValueError(
                "the length of the fit is unknown, so its schedule cannot be laid out: set "
                "fit.epochs and give a training loader that has a length"
            )
        self._steps = int(steps)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        rate = self.fit_spec.rate_at(min(self.global_step, self._steps - 1), self._steps)
        for group in cast("torch.optim.Optimizer", self.optimizers(False)).param_groups:
            group["lr"] = rate
        self.log("train/learning_rate", rate)


def early_stopping(fit: FitSpec) -> EarlyStopping | None:
    """The callback that `fit.patience` asks for, watching `val/fvu`."""
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
