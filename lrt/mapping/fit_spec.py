"""How a map is fitted by gradient, as plain data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from lrt.mapping.parametrisations import MapSpec
from lrt.mapping.whitening import WhiteningMode

Schedule = Literal["constant", "linear", "cosine"]
Start = Literal["mean", "optimum", "ridge", "procrustes"]
Solver = Literal["optimum", "ridge_per_direction", "identity", "mean_only", "shuffled_pairs", "embeddings"]


@dataclass(frozen=True)
class ClosedFormSpec:
    """A map solved from the moments instead of trained.

    solver  `optimum`: the best map of the kind (ridge, reduced-rank regression, Procrustes with scale).
            `ridge_per_direction`: ridge with a weight of its own for each principal direction of the target.
            The others ought to be beaten: `identity` (equal widths), `mean_only`, `shuffled_pairs` (ridge
            on target rows permuted over the corpus) and `embeddings` (ridge on the two models' embedding
            matrices alone, no activations).
    """

    solver: Solver = "optimum"
    kind: Literal["closed_form"] = "closed_form"

    def check(self, map_spec: MapSpec) -> None:
        """Raise ValueError, naming the setting, where a value is not allowed with this map."""
        if map_spec.orthogonal_form != MapSpec.orthogonal_form:
            raise ValueError(
                f"map.orthogonal_form={map_spec.orthogonal_form} is how a gradient fit writes the map; "
                "fit.kind=closed_form has no use for it, take it away"
            )
        if self.solver != "optimum" and map_spec.kind != "full":
            raise ValueError(
                f"fit.solver={self.solver} gives a map of one form, and map.kind={map_spec.kind} asks for "
                "another; set map=full or fit.solver=optimum"
            )
        if self.solver in ("identity", "mean_only", "embeddings") and not map_spec.bias:
            raise ValueError(
                f"fit.solver={self.solver} needs its bias, which makes the means agree; set map.bias=true"
            )

    def trainer_options(self) -> dict[str, Any]:
        """Nothing is Lightning's to do."""
        return {}


@dataclass(frozen=True)
class FitSpec:
    """Optimiser, schedule and coordinates of the gradient fit.

    The default is SGD with momentum on whitened inputs: the loss is in units of FVU and its
    Hessian is 2 I there, so one learning rate serves every pair. The paper's setting is
    `optimizer="AdamW", learning_rate=1e-4, options={}, schedule="constant", whitening="none",
    ridge=False` with 4 epochs (section 3.1).

    - `optimizer`: any name in `torch.optim`; `options` are its arguments, `learning_rate` apart.
    - `warmup`: share of all steps during which the rate rises (`one_cycle` and the others alike).
    - `whitening`: `auto` is `full`, or `scale` for the orthogonal kinds, whose shape it keeps.
    - `ridge`: put the reference_ridge's ridge weight, chosen on the validation documents, in the loss.
      Its minimum is then the reference_ridge's; without it the fit heads for plain least squares.
    - `start`: `mean` is the mean predictor (of the orthogonal kinds a random turn); `optimum` the closed
      form of the kind, which the gradient then leaves or stays at; `ridge` and `procrustes` those closed
      forms, or the map of the kind that is nearest to them.
    - `gradient_clip`: largest gradient norm. `patience`: validation checks without an improvement
      of `least_improvement` in `val/fvu` before it stops; null trains all epochs.
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
        """Raise ValueError, naming the setting, where a value is not allowed with this map."""
        self._check_optimizer()
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"fit.learning_rate must be above 0, got {self.learning_rate}")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"fit.schedule is one of {get_args(Schedule)}, got {self.schedule!r}")
        if self.start not in get_args(Start):
            raise ValueError(f"fit.start is one of {get_args(Start)}, got {self.start!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"fit.warmup is a share of the steps in [0, 1), got {self.warmup}")
        modes = ("auto", *get_args(WhiteningMode))
        if self.whitening not in modes:
            raise ValueError(f"fit.whitening is one of {modes}, got {self.whitening!r}")
        if map_spec.kind == "orthogonal" and self.whitening == "full":
            raise ValueError(
                "fit.whitening=full bends an orthogonal map when it is folded back; "
                "map.kind=orthogonal allows auto, scale or none"
            )
        if not 0 < self.whitening_floor < 1:
            raise ValueError(f"fit.whitening_floor must lie in (0, 1), got {self.whitening_floor}")
        if self.epochs < 1:
            raise ValueError(f"fit.epochs must be at least 1, got {self.epochs}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ValueError(f"fit.gradient_clip must be above 0 or null, got {self.gradient_clip}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"fit.patience must be at least 1 or null, got {self.patience}")
        if self.least_improvement < 0:
            raise ValueError(f"fit.least_improvement must be at least 0, got {self.least_improvement}")
        if self.least_improvement and self.patience is None:
            raise ValueError(
                f"fit.least_improvement={self.least_improvement} is of early stopping, which "
                "fit.patience=null asks not to have; set fit.patience or take it away"
            )
        if self.whitening_floor != FitSpec.whitening_floor and self.whitening_for(map_spec) != "full":
            raise ValueError(
                f"fit.whitening_floor={self.whitening_floor} belongs to full whitening, and this fit's is "
                f"{self.whitening_for(map_spec)}; take it away"
            )

    def _check_optimizer(self) -> None:
        allowed = optimizer_names()
        if self.optimizer not in allowed:
            raise ValueError(f"fit.optimizer is one of {allowed}, got {self.optimizer!r}")
        accepted = self._accepted() - {"params", "lr"}
        unknown = sorted(set(self.options) - accepted)
        if unknown:
            raise ValueError(
                f"fit.options.{unknown[0]} is not an option of {self.optimizer}; allowed: "
                f"{', '.join(sorted(accepted))}"
            )

    def whitening_for(self, map_spec: MapSpec) -> WhiteningMode:
        """The mode that `auto` stands for with this map."""
        if self.whitening != "auto":
            return self.whitening
        return "scale" if map_spec.kind in ("orthogonal", "orthogonal_penalty") else "full"

    def build_optimizer(
        self,
        decayed: list[torch.nn.Parameter],
        free: list[torch.nn.Parameter],
    ) -> torch.optim.Optimizer:
        """The optimiser; `weight_decay`, where among the options, reaches `decayed` alone."""
        build: Callable[..., torch.optim.Optimizer] = getattr(torch.optim, self.optimizer)
        if "weight_decay" not in self._accepted():
            # LBFGS, which takes no groups either.
            return build([*decayed, *free], lr=self.learning_rate, **self.options)
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": free, "weight_decay": 0.0},
        ]
        return build([group for group in groups if group["params"]], lr=self.learning_rate, **self.options)

    def _accepted(self) -> set[str]:
        return set(inspect.signature(getattr(torch.optim, self.optimizer)).parameters)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of optimiser step `step` of `steps` in all, counted from zero.

        A function of the step and nothing else, so that a resumed fit needs no state for it.
        `one_cycle` is the shape of torch's OneCycleLR: up from 1/25 and down to nearly nothing,
        both by half cosines.
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
        """What of this fit is the Lightning Trainer's to do: its keyword arguments."""
        return {"max_epochs": self.epochs, "gradient_clip_val": self.gradient_clip}


def optimizer_names() -> list[str]:
    """Names of the optimisers that torch has and a map can be trained with.

    SparseAdam takes sparse gradients only, and Muon matrices only (a map has a bias).
    """
    return sorted(
        name
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and name not in ("Optimizer", "SparseAdam", "Muon")
    )
