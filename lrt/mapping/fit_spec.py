"""How a map is fitted, by gradient steps or in closed form, as plain data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from lrt.errors import InvalidValue
from lrt.mapping.parametrisations import MapSpec
from lrt.mapping.whitening import WhiteningMode

Schedule = Literal["constant", "linear", "cosine"]
Start = Literal["mean", "optimum", "ridge", "procrustes"]
Solver = Literal["optimum", "ridge_per_direction", "identity", "mean_only", "shuffled_pairs", "embeddings"]


@dataclass(frozen=True)
class ClosedFormSpec:
    """A map solved from moments instead of trained.

    kind    `closed_form`, to choose this section.
    solver  `optimum`: the best map of the kind (ridge, reduced-rank regression, Procrustes with scale).
            `ridge_per_direction`: ridge with a separate weight for each principal direction of the target.
            Baselines that a map should beat: `identity` (equal widths only), `mean_only`, `shuffled_pairs`
            (ridge on target rows permuted over the corpus) and `embeddings` (ridge between the two models'
            embedding matrices, without hidden states).
    """

    solver: Solver = "optimum"
    kind: Literal["closed_form"] = "closed_form"

    def check(self, map_spec: MapSpec) -> None:
        """Raise InvalidValue, naming the setting, where a value is not allowed with this map."""
        if map_spec.orthogonal_form != MapSpec.orthogonal_form:
            raise InvalidValue(
                f"map.orthogonal_form={map_spec.orthogonal_form} is a setting of gradient fits; remove it, "
                "or set fit.kind=gradient"
            )
        if self.solver != "optimum" and map_spec.kind != "full":
            raise InvalidValue(
                f"fit.solver={self.solver} allows only map.kind=full, got map.kind={map_spec.kind}; set "
                "map=full or fit.solver=optimum"
            )
        if self.solver in ("identity", "mean_only", "embeddings") and not map_spec.bias:
            raise InvalidValue(
                f"fit.solver={self.solver} needs a bias, which aligns the means; set map.bias=true"
            )

    def trainer_options(self) -> dict[str, Any]:
        """No options for the Lightning Trainer, which is not used."""
        return {}


@dataclass(frozen=True)
class FitSpec:
    """Optimiser, schedule and coordinates of a gradient fit.

    The default is SGD with momentum on whitened inputs. The loss is in units of FVU and its Hessian is 2 I
    there, so one learning rate fits every pair. The paper's setting (section 3.1) is 4 epochs with
    `optimizer="AdamW", learning_rate=1e-4, options={}, schedule="constant", whitening="none", ridge=False`.

    kind           `gradient`, to choose this section.
    optimizer      Any name in `torch.optim`.
    options        Its arguments except the learning rate.
    learning_rate  Largest of the schedule.
    schedule       How the learning rate falls after the warm-up.
    warmup         Share of all steps during which the learning rate rises.
    epochs         Passes over the training rows.
    whitening      `auto`: `full`, or `scale` for the orthogonal kinds, whose shape it preserves.
    whitening_floor  Least eigenvalue that full whitening divides by, as a share of the largest.
    ridge          Add the reference ridge's penalty, whose weight was chosen on the validation documents, to
                   the loss. The minimum is then the reference ridge; without it, plain least squares.
    start          Initialise at: `mean`, the mean predictor (a random rotation for the orthogonal kinds);
                   `optimum`, the closed-form solution of the kind; `ridge` or `procrustes`, that closed-form
                   solution or the nearest map of the kind.
    gradient_clip  Largest gradient norm; None: no limit.
    patience       Stop after this many validation checks without an improvement of `val/fvu`; None: train
                   all epochs.
    least_improvement  What counts as one, in FVU.
    """

    optimizer: str = "SGD"
    learning_rate: float = 0.05
    options: dict[str, Any] = field(default_factory=lambda: {"momentum": 0.9})
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    whitening: WhiteningMode | Literal["auto"] = "auto"
    whitening_floor: float = 1e-6
    ridge: bool = True
    epochs: int = 4
    gradient_clip: float | None = None
    patience: int | None = None
    least_improvement: float = 0.0
    start: Start = "mean"
    kind: Literal["gradient"] = "gradient"

    def check(self, map_spec: MapSpec) -> None:
        """Raise InvalidValue, naming the setting, where a value is not allowed with this map."""
        self._check_optimizer()
        if not 0 < self.learning_rate < math.inf:
            raise InvalidValue(f"fit.learning_rate must be above 0, got {self.learning_rate}")
        if self.schedule not in get_args(Schedule):
            raise InvalidValue(f"fit.schedule must be one of {get_args(Schedule)}, got {self.schedule!r}")
        if self.start not in get_args(Start):
            raise InvalidValue(f"fit.start must be one of {get_args(Start)}, got {self.start!r}")
        if not 0 <= self.warmup < 1:
            raise InvalidValue(f"fit.warmup must be a share of the steps in [0, 1), got {self.warmup}")
        modes = ("auto", *get_args(WhiteningMode))
        if self.whitening not in modes:
            raise InvalidValue(f"fit.whitening must be one of {modes}, got {self.whitening!r}")
        if map_spec.kind == "orthogonal" and self.whitening == "full":
            raise InvalidValue(
                "fit.whitening=full does not preserve an orthogonal map; map.kind=orthogonal allows auto, "
                "scale or none"
            )
        if not 0 < self.whitening_floor < 1:
            raise InvalidValue(f"fit.whitening_floor must lie in (0, 1), got {self.whitening_floor}")
        if self.epochs < 1:
            raise InvalidValue(f"fit.epochs must be at least 1, got {self.epochs}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise InvalidValue(f"fit.gradient_clip must be above 0 or null, got {self.gradient_clip}")
        if self.patience is not None and self.patience < 1:
            raise InvalidValue(f"fit.patience must be at least 1 or null, got {self.patience}")
        if self.least_improvement < 0:
            raise InvalidValue(f"fit.least_improvement must be at least 0, got {self.least_improvement}")
        if self.least_improvement and self.patience is None:
            raise InvalidValue(
                f"fit.least_improvement={self.least_improvement} needs early stopping, which "
                "fit.patience=null turns off; set fit.patience or remove it"
            )
        if self.whitening_floor != FitSpec.whitening_floor and self.whitening_for(map_spec) != "full":
            raise InvalidValue(
                f"fit.whitening_floor={self.whitening_floor} needs full whitening, and this fit's is "
                f"{self.whitening_for(map_spec)}; remove it"
            )

    def _check_optimizer(self) -> None:
        allowed = optimizer_names()
        if self.optimizer not in allowed:
            raise InvalidValue(f"fit.optimizer must be one of {allowed}, got {self.optimizer!r}")
        accepted = self._accepted() - {"params", "lr"}
        unknown = sorted(set(self.options) - accepted)
        if unknown:
            raise InvalidValue(
                f"fit.options.{unknown[0]} is not an option of {self.optimizer}; allowed: "
                f"{', '.join(sorted(accepted))}"
            )

    def whitening_for(self, map_spec: MapSpec) -> WhiteningMode:
        """The whitening mode of this map, with `auto` resolved."""
        if self.whitening != "auto":
            return self.whitening
        return "scale" if map_spec.kind in ("orthogonal", "orthogonal_penalty") else "full"

    def build_optimizer(
        self,
        decayed: list[torch.nn.Parameter],
        free: list[torch.nn.Parameter],
    ) -> torch.optim.Optimizer:
        """The optimiser; `weight_decay` in `options` applies to the parameters `decayed` only."""
        build: Callable[..., torch.optim.Optimizer] = getattr(torch.optim, self.optimizer)
        if "weight_decay" not in self._accepted():
            # LBFGS, which does not take groups either
            return build([*decayed, *free], lr=self.learning_rate, **self.options)
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": free, "weight_decay": 0.0},
        ]
        return build([group for group in groups if group["params"]], lr=self.learning_rate, **self.options)

    def _accepted(self) -> set[str]:
        return set(inspect.signature(getattr(torch.optim, self.optimizer)).parameters)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step `step` (from 0) of `steps`.

        It depends on the step alone, so a resumed fit needs no scheduler state.
        """
        warmup_steps = self.warmup * steps
        if step < warmup_steps:
            return self.learning_rate * (step + 1) / (warmup_steps + 1)
        done = (step - warmup_steps) / (steps - warmup_steps)
        match self.schedule:
            case "constant":
                return self.learning_rate
            case "linear":
                return self.learning_rate * (1 - done)
            case "cosine":
                return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def trainer_options(self) -> dict[str, Any]:
        """Keyword arguments of this fit for the Lightning Trainer."""
        return {"max_epochs": self.epochs, "gradient_clip_val": self.gradient_clip}


def optimizer_names() -> list[str]:
    """Names of the optimisers in torch that can train a map.

    SparseAdam needs sparse gradients, and Muon takes matrices only (a map has a bias).
    """
    return sorted(
        name
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and name not in ("Optimizer", "SparseAdam", "Muon")
    )
