"""Train a sparse autoencoder on recorded hidden states, as a LightningModule."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from lrt.errors import InvalidValue
from lrt.features.autoencoder import SparseAutoencoder
from lrt.features.metrics import DeadShare, MeanActive
from lrt.mapping import FitDiverged, FractionUnexplained, Moments
from lrt.mapping.metrics import collect
from lrt.models.sides import Side

TrainedKind = Literal["topk", "jumprelu"]


@dataclass(frozen=True)
class SaeSpec:
    """Size of an autoencoder and how it is trained.

    k              Active features per row: exactly (`topk`), or on average (`jumprelu`, by the penalty
                   `l0_weight (L0 / k - 1)^2`).
    learning_rate  Of Adam, in coordinates where states have variance 1 per dimension. It rises over the first
                   5% of the steps and falls to zero over the last 20%.
    bandwidth      Width of the window around a threshold in which the threshold gets a gradient.
    dead_after     A feature that was inactive for this many rows is dead. Dead features are trained, with
                   weight `auxiliary_weight`, to reconstruct the error of the others (Gao et al., 2406.04093,
                   A.2).
    """

    features: int
    k: int
    kind: TrainedKind = "topk"
    learning_rate: float = 3e-3
    l0_weight: float = 1.0
    bandwidth: float = 0.5
    dead_after: int = 20_000
    auxiliary_weight: float = 1 / 32

    def check(self, width: int) -> None:
        """Raise InvalidValue, naming the setting, where a value is not allowed for states of this width."""
        if self.kind not in get_args(TrainedKind):
            raise InvalidValue(f"analysis.sae.kind must be one of {get_args(TrainedKind)}, got {self.kind!r}")
        if width < 1 or self.features < 1:
            raise InvalidValue(
                f"width and analysis.sae.features must be at least 1, got {width} and {self.features}"
            )
        if not 1 <= self.k <= self.features:
            raise InvalidValue(
                f"analysis.sae.k must lie in 1..{self.features} (analysis.sae.features), got {self.k}"
            )
        for name in ("learning_rate", "bandwidth"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InvalidValue(f"{name} of an SaeSpec must be above 0 and finite, got {value}")
        for name in ("l0_weight", "auxiliary_weight"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InvalidValue(f"{name} of an SaeSpec must be at least 0 and finite, got {value}")
        if self.dead_after < 1:
            raise InvalidValue(f"dead_after of an SaeSpec must be at least 1 row, got {self.dead_after}")


class SaeModule(LightningModule):
    """Trains a TopK or JumpReLU autoencoder of one side's hidden states.

    Batches are dictionaries with rows `[n, d]` under `side`. States are centred by their training mean and
    divided by one scalar, so that the reconstruction loss is in units of FVU. Decoder rows have unit length:
    the radial part of their gradient is removed, and they are normalised after each step. It logs

    - `train/fvu`, `train/l0` and `train/dead` (share of features inactive for `dead_after` rows);
    - per epoch, over all rows of the validation (`val/`) or test (`test/`) split and in the model's own
      coordinates: `fvu`, `l0` and `dead` (share of features active in none of the rows).

    Build one with `from_moments`. The constructor takes plain data only, so that checkpoints reload with
    `weights_only=True`; it leaves mean and scale to be loaded from a checkpoint. Raises InvalidValue for a
    spec that is not allowed.
    """

    mean: Tensor  # [d]
    scale: Tensor  # []
    rows_off: Tensor  # [m], rows since a feature was last active

    def __init__(
        self, width: int, sae: dict[str, Any], side: Side, layer: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = SaeSpec(**sae)
        self.spec.check(width)
        if side not in get_args(Side):
            raise ValueError(f"side must be one of {get_args(Side)}, got {side!r}")
        self.side = side
        self.layer = layer
        # Two sides of equal width must start differently, or their features would match by the seed.
        generator = torch.Generator().manual_seed(2 * seed + (side == "target"))
        self.learnt = _start(width, self.spec, generator)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("rows_off", torch.zeros(self.spec.features, dtype=torch.int64))
        self.scores = _scores(self.spec.features, self.mean)

    @classmethod
    def from_moments(
        cls, spec: SaeSpec, moments: Moments, side: Side, *, layer: int | None = None, seed: int = 0
    ) -> SaeModule:
        """A module ready to train on the rows of `moments`.

        layer  The decoder block whose output the rows are.

        Raises InvalidValue for a spec that is not allowed at this width and for rows that do not vary.
        """
        width = moments.d_source if side == "source" else moments.d_target
        module = cls(width, asdict(spec), side, layer, seed)
        mean = moments.mean_x if side == "source" else moments.mean_y
        scatter = moments.scatter_xx if side == "source" else moments.scatter_yy
        variance = float(scatter.trace()) / moments.count / width
        if not variance > 0:
            raise InvalidValue(f"the {side} rows do not vary: give the corpus more documents")
        module.mean.copy_(mean)
        module.scale.fill_(variance**0.5)
        module.scores = _scores(spec.features, module.mean)
        return module

    def forward(
        self,
        x: Tensor,  # [n, d]
    ) -> Tensor:  # [n, d], float32
        """Reconstructed states, in the model's own coordinates."""
        return self._back(self.learnt.reconstruct(self._normalised(x)))

    def autoencoder(self) -> SparseAutoencoder:
        """The current autoencoder for raw states, frozen: mean and scale are folded into its weights.

        Decoder rows have unit length, so activations are lengths in the units of the states.
        """
        learnt, mean, scale = self.learnt, self.mean.double(), self.scale.double()
        threshold = None if learnt.threshold is None else learnt.threshold.double() * scale
        W_enc = learnt.W_enc.double()
        sae = SparseAutoencoder(
            W_enc,
            learnt.b_enc.double() * scale - mean @ W_enc,
            learnt.W_dec,
            learnt.b_dec.double() * scale + mean,
            learnt.kind,
            k=learnt.k,
            threshold=threshold,
            layer=self.layer,
        )
        return sae.requires_grad_(False)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:  # noqa: ARG002
        x = self._normalised(batch[self.side])
        z = self.learnt.pre_activations(x)
        f, l0 = self._activate(z)
        error = x - self.learnt.decode(f)
        fvu = error.square().mean()
        loss = fvu
        if self.spec.kind == "jumprelu":
            loss = loss + self.spec.l0_weight * (l0 / self.spec.k - 1).square()
        dead = self._count_rows_off(f)
        if self.spec.auxiliary_weight and dead.any():
            loss = loss + self.spec.auxiliary_weight * self._auxiliary(z, error.detach(), dead)
        if not loss.isfinite():
            raise FitDiverged(
                f"the training diverged: the loss is {float(loss)} at step {self.global_step}. Exclude "
                "massive activations (filter.max_norm_ratio), train in full precision "
                f"(trainer.precision=32-true), or lower learning_rate={self.spec.learning_rate} of the "
                "SaeSpec"
            )
        self.log("train/fvu", fvu.detach())
        self.log("train/l0", l0.detach())
        self.log("train/dead", dead.float().mean())
        return loss

    def _activate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Feature activations `[n, m]` and L0, with a gradient for the thresholds."""
        threshold = self.learnt.threshold
        if threshold is None:
            f = self.learnt.activate(z)
            return f, (f > 0).float().sum(1).mean()
        # Straight-through estimator: the value of the step, with the gradient of a ramp `bandwidth` wide
        # (2407.14435, section 3). z gets no gradient from the ramp; it learns through the active features.
        ramp = ((z.detach() - threshold) / self.spec.bandwidth + 0.5).clamp(0, 1)
        gate = (z > threshold).float() + ramp - ramp.detach()
        return z.relu() * gate, gate.sum(1).mean()

    @torch.no_grad()
    def _count_rows_off(self, f: Tensor) -> Tensor:  # [m], bool
        self.rows_off += len(f)
        self.rows_off[(f > 0).any(0)] = 0
        return self.rows_off >= self.spec.dead_after

    def _auxiliary(
        self,
        z: Tensor,  # [n, m]
        error: Tensor,  # [n, d]
        dead: Tensor,  # [m], bool
    ) -> Tensor:
        """FVU of the reconstruction of `error` by the dead features with the largest pre-activations."""
        indices = dead.nonzero()[:, 0]
        candidates = z[:, indices]
        largest = candidates.topk(min(len(indices), max(1, z.shape[1] // 16)), dim=1, sorted=False)
        f = torch.zeros_like(candidates).scatter(1, largest.indices, largest.values.relu())
        remaining = error - f @ self.learnt.W_dec[indices]
        return remaining.square().sum() / error.square().sum().clamp(min=1e-12)

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:  # noqa: ARG002
        self._score("val", batch)

    def test_step(self, batch: dict[str, Tensor], batch_index: int) -> None:  # noqa: ARG002
        self._score("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _score(self, split: str, batch: dict[str, Tensor]) -> None:
        x = batch[self.side]
        f = self.learnt.encode(self._normalised(x))
        scores = cast("nn.ModuleDict", self.scores[split])
        cast("FractionUnexplained", scores["fvu"]).update(self._back(self.learnt.decode(f)), x)
        cast("MeanActive", scores["l0"]).update(f)
        cast("DeadShare", scores["dead"]).update(f)

    def _log_scores(self, split: str) -> None:
        scores = cast("dict[str, Metric]", self.scores[split])
        values = collect(self.trainer, split, scores.items())
        self.log_dict({name: value.float() for name, value in values.items()}, sync_dist=True)

    def _normalised(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) / self.scale

    def _back(self, x: Tensor) -> Tensor:
        return x * self.scale + self.mean

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.learnt.parameters(), lr=self.spec.learning_rate, foreach=True)

    # Not by a scheduler: asking for the number of steps earlier makes Lightning set up the training loader
    # before it restores the loader's state from a checkpoint.
    def on_train_start(self) -> None:
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise ValueError(
                "the learning rate schedule needs the number of steps: set the trainer's epochs or steps, "
                "and pass a training loader that has a length"
            )
        self._steps = int(steps)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        done = min(self.global_step / self._steps, 1.0)
        share = min(1.0, (done + 1 / self._steps) / 0.05, (1 - done) / 0.2)
        for group in cast("torch.optim.Optimizer", self.optimizers(False)).param_groups:
            group["lr"] = self.spec.learning_rate * share

    @torch.no_grad()
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        rows = self.learnt.W_dec
        if rows.grad is not None:
            rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows

    # Within the step: callbacks that save a checkpoint after a batch run before this module's own hook.
    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        with torch.no_grad():
            self.learnt.W_dec.copy_(nn.functional.normalize(self.learnt.W_dec, dim=1))
            if self.learnt.threshold is not None:
                self.learnt.threshold.clamp_(min=0)


def _start(width: int, spec: SaeSpec, generator: torch.Generator) -> SparseAutoencoder:
    rows = nn.functional.normalize(torch.randn(spec.features, width, generator=generator), dim=1)
    jump = spec.kind == "jumprelu"
    # Normally distributed pre-activations exceed this level for k features, so L0 starts near k.
    level = math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * spec.k / (spec.features + 1))))
    return SparseAutoencoder(
        rows.T.contiguous(),
        torch.zeros(spec.features),
        rows,
        torch.zeros(width),
        spec.kind,
        k=None if jump else spec.k,
        threshold=torch.full((spec.features,), max(level, 0.0)) if jump else None,
    )


def _scores(features: int, centre: Tensor) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            split: nn.ModuleDict(
                {
                    "fvu": FractionUnexplained(len(centre), centre),
                    "l0": MeanActive(),
                    "dead": DeadShare(features),
                }
            )
            for split in ("val", "test")
        }
    )
