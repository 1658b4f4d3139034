"""One run of the program: seeds, console, stage clock, and the loggers that are closed whatever happens."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lightning as L
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lrt.models import quiet_loading
from lrt.runtime.schema import Config, ConfigError, read_config

log = logging.getLogger(__name__)


def without_place(text: str) -> str:
    """The text with paths under the working folder told from there: a report that is passed on names no
    folder of the machine it was made on."""
    return text.replace(f"{Path.cwd()}/", "")


@contextmanager
def fenced() -> Iterator[None]:
    """W&B does not decide a run's fate: what it raises is told, and the local record is whole without it."""
    try:
        yield
    except Exception as error:  # of the network, of a full disk, of W&B's own making
        log.warning("W&B failed (%s: %s); the run goes on with the local record", type(error).__name__, error)


# Seconds that W&B is given to send what is left: at a run's end, and where the user stopped it.
ENDING, STOPPING = 120.0, 2.0


class FencedWandb(WandbLogger):
    """Lightning's logger, behind the fence."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with fenced():
            super().log_metrics(metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        with fenced():
            super().log_hyperparams(params)

    def finalize(self, status: str) -> None:
        with fenced():
            super().finalize(status)


class Session:
    """Opens what a run needs and closes it again, after an exception too.

    `loggers` are Lightning's: CSV always, W&B unless disabled. The local record is the one of truth;
    W&B that cannot be reached is told and left out.
    """

    def __init__(
        self, config: Config, resolved: Mapping[str, Any], kind: str, group: str | None = None
    ) -> None:
        self.config, self.resolved, self.kind, self.group = config, resolved, kind, group
        self.console = Console(stderr=True)
        self.seconds: dict[str, float] = {}
        self.loggers: list[Logger] = []
        self._nested = 0.0

    @classmethod
    def of(cls, composed: DictConfig, kind: str) -> Self:
        """The session of what Hydra composed. Raises ConfigError for a config that cannot be run."""
        config = read_config(composed)
        hydra = HydraConfig.get()
        devices = config.trainer.get("devices", 1)
        if hydra.mode == RunMode.MULTIRUN and str(devices) != "1":
            raise ConfigError(
                f"trainer.devices={devices} within a multirun: each process would start the whole "
                "sweep again; sweep with trainer.devices=1, or run the jobs one by one"
            )
        resolved = {
            "settings": OmegaConf.to_container(composed, resolve=True),
            "yaml": without_place(OmegaConf.to_yaml(composed, resolve=True)),
            "overrides": list(hydra.overrides.task),
        }
        # the jobs of a sweep share a group, that of its folder where none is named
        sweep = str(Path(hydra.sweep.dir)) if hydra.mode == RunMode.MULTIRUN else None
        return cls(config, resolved, kind, config.logging.group or sweep)

    def __enter__(self) -> Self:
        logging.getLogger("lrt").handlers = [RichHandler(console=self.console, show_path=False)]
        logging.getLogger("lrt").setLevel(logging.INFO if self.first else logging.WARNING)
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        logging.getLogger("lrt").propagate = False
        # Lightning's own tree utilities trip over a deprecation of torch's at every step
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        quiet_loading()
        config = self.config
        if config.seed < 0:
            raise ConfigError(f"seed={config.seed}; it must be at least 0")
        L.seed_everything(config.seed, workers=True, verbose=False)
        for setting in ("artifacts", "report", "logs"):
            check_writable(Path(getattr(config.paths, setting)), f"paths.{setting}")
        self.loggers = [CSVLogger(config.paths.logs, name="csv", version="")]
        if config.logging.mode != "disabled":
            self._open_wandb()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without this a multirun writes all its jobs into one run, and a failed job spoils the next.
        self._end_wandb(error)

    def _end_wandb(self, error: BaseException | None) -> None:
        """Ends W&B's run, and does not wait for a server that has stopped answering."""

        def finish() -> None:
            with fenced():
                wandb.finish(exit_code=0 if error is None else 1)

        # Lightning turns Ctrl-C into an exit of its own
        stopped = any(isinstance(e, KeyboardInterrupt) for e in (error, getattr(error, "__context__", None)))
        patience = STOPPING if stopped else ENDING
        ending = threading.Thread(target=finish, daemon=True, name="wandb")
        ending.start()
        ending.join(patience)
        if ending.is_alive():
            log.warning(
                "W&B did not come to an end within %g s; what it kept under %s can be sent by `wandb sync`",
                patience,
                self.config.paths.logs,
            )

    @property
    def first(self) -> bool:
        """Whether this is the first (or only) process of a distributed fit, the one that tells and writes."""
        return int(getattr(rank_zero_only, "rank", None) or 0) == 0

    def _open_wandb(self) -> None:
        settings, folder = self.config.logging, self.config.paths.logs
        if not self.first:
            return
        mode, known = settings.mode, True
        if mode == "online":
            known = False
            with fenced():  # asks no server, and refuses what cannot be a key
                known = wandb.login(prompt=False, verify=False)
        if not known:
            log.warning(
                "logging.mode=online needs a W&B key and none is set (`wandb login`, or WANDB_API_KEY): the "
                "run is written offline, and `wandb sync` sends it later"
            )
            mode = "offline"
        with fenced():
            # Not by Lightning's logger: its `offline=True` leaves WANDB_MODE set for the next job.
            run = wandb.init(
                project=settings.project,
                group=self.group,
                name=settings.name,
                job_type=self.kind,
                dir=folder,
                mode=mode,
                config=self.resolved["settings"],
                settings=wandb.Settings(silent=True),
            )
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            self.loggers.append(FencedWandb(save_dir=folder, experiment=run))

    @property
    def _wandb_run(self) -> Any | None:
        return next((o.experiment for o in self.loggers if isinstance(o, WandbLogger)), None)

    def tell_wandb(self, tell: Callable[[Any], None]) -> None:
        """Calls `tell` with the open W&B run, if there is one."""
        if (run := self._wandb_run) is not None:
            with fenced():
                tell(run)

    def loggers_of(self, name: str) -> list[Logger]:
        """The run's loggers; of a fit with a name, with that name before its metrics."""
        if not name:
            return self.loggers
        logs = self.config.paths.logs
        found: list[Logger] = [CSVLogger(logs, name="csv", version=name, prefix=name)]
        if (run := self._wandb_run) is not None:
            found.append(FencedWandb(save_dir=logs, experiment=run, prefix=name))
        return found

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage, adding up where it is entered more than once; the time of a stage within it is
        that one's own."""
        start, outer = time.perf_counter(), self._nested
        self._nested = 0.0
        log.info("%s", name)
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent - self._nested, 2)
            self._nested = outer + spent

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """A spinner, for a step whose length is not known."""
        if not self.first:
            yield
            return
        with self.console.status(what):
            yield

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Any]:
        """A bar; yields a function that advances it."""
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.first,
        )
        with bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)


def check_writable(folder: Path, setting: str) -> None:
    """Makes the folder; raises ConfigError naming the setting where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"{setting}={folder} cannot be written ({error.strerror}); set {setting} to a folder that can"
        ) from error
