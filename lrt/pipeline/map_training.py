"""How a map is made: trained by Lightning from the mean predictor on, or solved from the moments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor

from lrt.config import Batches, ConfigError
from lrt.evaluation import SteeringEvalCallback
from lrt.mapping import (
    AffineMap,
    ClosedFormSpec,
    FitHistory,
    FitSpec,
    MapModule,
    MapSpec,
    MeanCosine,
    closed_form,
    early_stopping,
    from_embeddings,
    identity,
    mean_only,
    ridge_at,
)
from lrt.pipeline.fit_data import FitData
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.nulls import Refit
from lrt.pipeline.pair import ModelPair
from lrt.pipeline.step_progress import StepProgress
from lrt.storage.checkpoints import DurableCheckpoints, RelocatableCheckpoint, plugins, resuming
from lrt.storage.durable import sweep
from lrt.storage.fingerprint import file_digests
from lrt.storage.locks import one_writer

NOT_IN_THE_MAP = (
    "accelerator",
    "enable_progress_bar",
    "log_every_n_steps",
    "enable_model_summary",
    "max_time",  # a fit that it ends is not finished
)
"""Settings of the Trainer that leave a map as it is."""

HALF = ("bf16-true", "16-true")
"""Precisions in which the weights themselves would be in half precision."""

CALLBACKS = ("DeviceStatsMonitor", "LearningRateMonitor", "RichModelSummary", "Timer")
"""Lightning's callbacks that a config may add: they watch a fit and do not change its map."""

OURS = (
    "logger",
    "callbacks",
    "plugins",
    "default_root_dir",
    "enable_checkpointing",
    "use_distributed_sampler",
)
"""Settings of the Trainer that a run sets itself."""


@dataclass(frozen=True)
class FitSettings:
    """How maps are fitted: the sections of the config that decide it.

    trainer    Arguments of Lightning's Trainer.
    callbacks  Further Lightning callbacks by class name, each with its arguments.
    ckpt_path  A checkpoint that the fit of the whole-corpus map starts from.
    """

    map: MapSpec
    fit: FitSpec | ClosedFormSpec
    batches: Batches
    trainer: Mapping[str, Any]
    callbacks: Mapping[str, Mapping[str, Any]]
    ckpt_path: str | None
    seed: int

    @cached_property
    def _checked_trainer(self) -> L.Trainer:
        return check_trainer(self.trainer, self.fit)

    @property
    def processes(self) -> int:
        """Processes of a fit. Raises ConfigError as `check_trainer`."""
        return self._checked_trainer.world_size

    def facts(self) -> dict[str, Any]:
        """What determines a map beside its rows."""
        facts: dict[str, Any] = {"map": self.map, "fit": self.fit, "seed": self.seed}
        if isinstance(self.fit, FitSpec):
            facts |= self.gradient_facts()
            if self.ckpt_path is not None:
                facts["start"] = file_digests((self.ckpt_path,))
        return facts

    def without_checkpoint(self) -> FitSettings:
        """The same without `ckpt_path`, which is for the whole-corpus map alone."""
        return replace(self, ckpt_path=None)

    def gradient_facts(self) -> dict[str, Any]:
        """What determines a gradient fit beside its optimiser: batches and Trainer."""
        trainer = {k: v for k, v in self.trainer.items() if k not in NOT_IN_THE_MAP}
        # auto is another number on another machine; which GPUs they are leaves the map as it is
        trainer["devices"] = self._checked_trainer.num_devices
        return {"batches": asdict(self.batches) | {"workers": None}, "trainer": trainer}

    @property
    def trainer_options(self) -> dict[str, Any]:
        """Arguments of a fit's Trainer. `max_time` is not among them: at its end Lightning would count the
        fit as finished."""
        return {key: value for key, value in self.trainer.items() if key != "max_time"}

    def resuming(self, last: Path) -> list[L.Callback]:
        """Callbacks with which a fit continues from the checkpoint `last`, and stops at `max_time`."""
        timer = lightning_callbacks.Timer(self.trainer.get("max_time"))
        return resuming(last, max_time=timer.time_remaining())

    def use_own_device(self) -> None:
        """Makes `cuda` the GPU on which this process's part of a fit runs, so that its models lie there too.

        Lightning knows which: by LOCAL_RANK, SLURM_LOCALID and the like, and `trainer.devices`. Raises
        ConfigError as `check`.
        """
        trainer = self._checked_trainer
        if torch.cuda.is_available():
            device = trainer.strategy.root_device
            own = device.index if device.type == "cuda" else trainer.local_rank % torch.cuda.device_count()
            torch.cuda.set_device(own or 0)

    def check(self) -> None:
        """Raises ConfigError (or InvalidValue) for settings of the fit and the Trainer that cannot be run."""
        self.fit.check(self.map)
        _ = self._checked_trainer
        self.watching()
        if self.ckpt_path is not None and not Path(self.ckpt_path).is_file():
            raise ConfigError(f"ckpt_path={self.ckpt_path}: there is no such file; name a checkpoint or null")

    def progress(self, monitor: Monitor, what: str) -> list[L.Callback]:
        """The progress of a training, unless trainer.enable_progress_bar turns it off."""
        return [StepProgress(monitor, what)] if self.trainer.get("enable_progress_bar", True) else []

    def watching(self) -> list[L.Callback]:
        """The further callbacks. Raises ConfigError for one that is not allowed, or for its arguments."""
        made = []
        for name, arguments in self.callbacks.items():
            if name not in CALLBACKS:
                raise ConfigError(f"callbacks.{name}: unknown; allowed: {', '.join(CALLBACKS)}")
            try:
                callback = getattr(lightning_callbacks, name)(**arguments)
            except (TypeError, ValueError, MisconfigurationException) as error:
                raise ConfigError(f"callbacks.{name}={dict(arguments)}: {error}") from error
            if isinstance(callback, lightning_callbacks.Timer) and callback.time_remaining() is not None:
                raise ConfigError(
                    f"callbacks.{name}={dict(arguments)}: a duration ends a fit as if it were finished; "
                    "set trainer.max_time, which saves a checkpoint to go on from"
                )
            made.append(callback)
        return made


@dataclass(frozen=True)
class FitOutput:
    """Where a fit logs to, and what it leaves.

    loggers   Gives Lightning's loggers for a fit's name (empty for the whole-corpus map).
    logs      The run's folder.
    command   The `train.py` line of these settings, for messages.
    most_sums  Most bytes of the sums that are saved beside a map; larger ones are not saved.
    """

    loggers: Callable[[str], list[Logger]]
    logs: str
    command: str
    most_sums: float


@dataclass(frozen=True)
class Fitted:
    """A map and how it was made.

    cosine  Mean cosine of mapped and recorded test rows.
    solved  Of a closed form: `note`, and `ridge_weight` where it has one.
    """

    affine: AffineMap
    history: FitHistory
    evaluations: list[dict[str, Any]]
    steps: int
    cosine: float
    solved: dict[str, Any] | None = None


def train(
    data: FitData,
    spec: FitSpec,
    settings: FitSettings,
    vectors: dict[str, Tensor],
    evaluation: SteeringEvalCallback | None,
    output: FitOutput,
    folder: Path,
    keep: Callable[[Fitted], None],
    exists: Callable[[], bool],
) -> None:
    """Trains a map with Lightning and hands it to `keep`, on the first process alone.

    Continues from the last checkpoint in `folder`, where there is one.

    vectors  Native vectors `[d_target]` by label, along which the error is logged.
    exists   Whether another process has fitted the map meanwhile.
    """
    module, history = _module(data, spec, settings, vectors), FitHistory()
    checkpoints = folder / "checkpoints"
    last, best = checkpoints / "last.ckpt", checkpoints / "best.ckpt"
    with ExitStack() as held:
        callbacks: list[L.Callback] = [
            history,
            RelocatableCheckpoint(
                checkpoints, monitor="val/fvu", filename="best", enable_version_counter=False
            ),
            *([stopper] if (stopper := early_stopping(spec)) is not None else []),
            *([evaluation] if evaluation is not None else []),
            *settings.watching(),
            *settings.progress(data.monitor, f"training the map, {data.name}"),
            *settings.resuming(last),
        ]
        trainer = L.Trainer(
            **{
                "logger": output.loggers(data.name if data.parts else ""),
                "callbacks": callbacks,
                "default_root_dir": output.logs,
                "enable_model_summary": False,
                "plugins": plugins(settings.processes),
                # the stream deals its batches out to the processes itself
                "use_distributed_sampler": False,
                **spec.trainer_options(),
                **settings.trainer_options,
                "enable_progress_bar": False,  # ours shows it
            }
        )
        fitted = False
        if trainer.is_global_zero:  # the other processes of a distributed fit write nothing
            held.enter_context(one_writer(folder, "fitting the map in", ConfigError, ConfigError, wait=True))
            fitted = exists()
        if _is_fitted(trainer, fitted):
            return
        if trainer.is_global_zero and checkpoints.is_dir():
            sweep(checkpoints)
        start = str(last) if last.is_file() else settings.ckpt_path if not data.parts else None
        with data.monitor.stage("fit maps"):  # before the card, which says what it took
            try:
                trainer.fit(module, datamodule=data.for_fit, ckpt_path=start)
            # what shows with the data alone, as limit_train_batches
            except MisconfigurationException as error:
                raise ConfigError(
                    f"Lightning's Trainer refuses these settings (trainer.*): {error}"
                ) from error
            if best.is_file():
                DurableCheckpoints().load_checkpoint(best)  # names a damaged file
                module = MapModule.load_from_checkpoint(best, weights_only=True)
            steps = trainer.global_step
            (scores,) = trainer.test(module, datamodule=data.for_fit, verbose=False)
        if trainer.is_global_zero:  # before another process that waits goes on
            points = evaluation.history() if evaluation else []
            keep(Fitted(module.affine().to("cpu"), history, points, steps, scores["test/cosine"]))
    trainer.strategy.barrier("map written")


def _is_fitted(trainer: L.Trainer, fitted: bool) -> bool:
    """The first process's `fitted`, in each process of a fit: all of them train, or none."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):  # one process, so far
        return fitted
    if fitted and not launcher.cluster_environment.creates_processes_externally:
        return True  # before Lightning starts the others

    def ask() -> bool:
        trainer.strategy.setup_environment()
        return bool(trainer.strategy.broadcast(fitted))

    return bool(launcher.launch(ask))


def _module(data: FitData, spec: FitSpec, settings: FitSettings, vectors: dict[str, Tensor]) -> MapModule:
    reference, start, bias = data.reference_ridge, None, settings.map.bias
    rows, width = data.train_moments.count, data.train_moments.d_source
    # orthogonal kinds are determined by more than the rows
    free = settings.map.kind in ("full", "low_rank")
    if free and not spec.ridge and rows <= width:
        raise ConfigError(
            f"{rows} rows do not determine a map of {width} source dimensions without a ridge: set "
            "fit.ridge=true, or give more rows (corpus.tokens.train, a smaller pool)"
        )
    if spec.start != "mean":
        map_of = {
            "optimum": settings.map,
            "ridge": MapSpec(bias=bias),
            "procrustes": MapSpec("orthogonal", bias=bias),
        }
        held_out = data.moments["validation"]
        start = closed_form(map_of[spec.start], data.train_moments, held_out, ridge=reference).map
    return MapModule.from_moments(
        settings.map,
        spec,
        data.train_moments,
        reference_ridge=reference,
        optimum={"val": reference.fvu_validation, "test": data.moments["test"].fvu_of(reference.map)},
        vectors=vectors,
        start=start,
        seed=settings.seed,
    )


def solve(data: FitData, spec: ClosedFormSpec, map_spec: MapSpec, refit: Refit, pair: ModelPair) -> Fitted:
    """The map in closed form, from the moments alone."""
    train = data.train_moments
    weight: float | None = None
    match spec.solver:
        case "optimum":
            fit = closed_form(map_spec, train, data.moments["validation"], ridge=data.reference_ridge)
            affine, weight, note = fit.map, fit.ridge_weight, fit.note
        case "ridge_per_direction":
            affine = refit.per_direction.map
            note = "ridge regression, each principal direction of the target with a weight of its own"
        case "mean_only":
            affine, note = mean_only(train), "the target's mean state, whatever the source's"
        case "identity":
            affine, note = identity(train), "the identity, means aligned"
        case "shuffled_pairs":
            weight = data.reference_ridge.weight
            affine = ridge_at(data.shuffled[0], weight, bias=map_spec.bias)
            over = "the corpus" if data.states.settings.keeps_states else "windows of the corpus"
            note = f"ridge regression on pairs whose target rows are permuted over {over}"
        case "embeddings":
            source, target = pair.model("source").embeddings, pair.target.embeddings
            affine = from_embeddings(source, target, train)
            note = "ridge regression between the embedding matrices; the bias of the training rows"
    affine = affine.to(torch.float32)
    solved = {"note": note, "ridge_weight": weight}
    return Fitted(affine, FitHistory(), [], 0, mean_cosine(affine, data), solved)


def mean_cosine(affine: AffineMap, data: FitData) -> float:
    """Mean cosine of mapped and recorded test rows."""
    metric, mapped = MeanCosine().to(data.device), affine.to(data.device)
    for batch in data.in_order.iterate("test", device=data.device):
        metric.update(mapped.points(batch["source"]), batch["target"])
    return float(metric.compute())


def check_trainer(settings: Mapping[str, Any], fit: FitSpec | ClosedFormSpec) -> L.Trainer:
    """A Trainer of these settings, which trains nothing.

    Raises ConfigError for a setting that Lightning's Trainer does not take, or not on this machine.
    """
    allowed = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    for key in settings:
        if key in fit.trainer_options():
            raise ConfigError(f"trainer.{key} is set by fit (fit.epochs, fit.gradient_clip): set it there")
        if key in OURS:
            raise ConfigError(f"trainer.{key}: the run sets it itself; take it away")
        if key not in allowed:
            raise ConfigError(f"trainer.{key} is not a setting of Lightning's Trainer")
    if (precision := str(settings.get("precision"))) in HALF:
        raise ConfigError(
            f"trainer.precision={precision}: a map's weights, means and sums need more digits; use "
            f"{precision.removesuffix('true')}mixed, 32-true or 64-true"
        )
    if not isinstance(limit := settings.get("max_time"), NoneType | str | Mapping | timedelta):
        raise ConfigError(
            f"trainer.max_time={limit}: must be a duration, as 00:12:00:00 (days:hours:minutes:seconds)"
        )
    values = ", ".join(f"trainer.{key}={value}" for key, value in settings.items())

    def trainer_of(processes: int) -> L.Trainer:
        return L.Trainer(
            **settings,
            plugins=plugins(processes),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )

    try:
        trainer = trainer_of(1)  # as if nothing else had started processes
        if (expected := trainer.num_devices * trainer.num_nodes) > 1:
            trainer = trainer_of(expected)
            environment = getattr(trainer.strategy, "cluster_environment", None)
            if isinstance(environment, ClusterEnvironment):
                environment.validate_settings(trainer.num_devices, trainer.num_nodes)
    # the values meet nothing but Lightning's own checks, and it raises whatever they stumble over
    except Exception as error:
        raise ConfigError(f"Lightning's Trainer refuses these settings ({values}): {error}") from error
    if trainer.world_size != expected or trainer.global_rank >= expected:
        raise ConfigError(
            f"this is process {trainer.global_rank} of {trainer.world_size} by the environment (torchrun, "
            f"srun, LOCAL_RANK), and the settings ({values}) make {expected}: start as many processes as "
            "trainer.devices x trainer.num_nodes, or set these to what is started"
        )
    return trainer
