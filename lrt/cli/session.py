"""One run of a command: config, seeds, console, loggers and cache, closed again whatever happens."""

from __future__ import annotations

import json
import logging
import os
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.logging import RichHandler

from lrt.cli.composing import as_typed
from lrt.cli.console import ConsoleMonitor
from lrt.cli.latest import point_latest
from lrt.cli.run_identity import RunIdentity
from lrt.cli.stopping import end_with_parent
from lrt.cli.tracking import Tracking
from lrt.config import Config, ConfigError, read_config
from lrt.config.published import Published
from lrt.config.reading import as_yaml
from lrt.models import quiet_loading
from lrt.pipeline import FitOutput, FitSettings, RowSettings, pin_revisions
from lrt.report import Table
from lrt.storage.cache import Cache
from lrt.storage.durable import write_durably

log = logging.getLogger(__name__)

OUTCOME = "outcome.json"
"""A run's figures in its folder, for the row of a sweep."""

PROGRAMS = ("train", "evaluate", "atlas", "record")
"""Configs of the commands; another is named on the command line."""


class Session:
    """Opens what a run needs and closes it again, after an exception too.

    config     The typed config; `composed` what Hydra made, with further sections of other commands.
    arguments  Of the command line, as far as they choose settings.
    sweep      The folder of the multirun that this is a job of, and the job's number.
    """

    def __init__(
        self,
        config: Config,
        composed: DictConfig,
        arguments: list[str],
        steps: int,
        sweep: str | None = None,
        job: int | None = None,
    ) -> None:
        self.published = Published(composed)
        settings = self.published.settings
        self.config = replace(config, pair=self.published.labelled(config.pair))
        self.yaml = without_folder(as_yaml(settings))
        self.arguments = arguments
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        self._processes = self.fit_settings.processes
        self.console = Console(stderr=True)
        self.monitor = ConsoleMonitor(self.console, steps, self.first)
        self.cache = Cache(Path(config.paths.artifacts))
        identity = RunIdentity.of(self.config, settings, sweep, job)
        self.tracking = Tracking(config.logging, config.paths.logs, config.task_name, identity)

    @classmethod
    def of(cls, composed: DictConfig, steps: int, settings: DictConfig | None = None) -> Self:
        """The session of what Hydra composed. Raises ConfigError for a config that cannot be run.

        steps     Numbered steps of the command.
        settings  The settings of train.py alone, where `composed` holds further sections.
        """
        config = read_config(composed if settings is None else settings)
        hydra = HydraConfig.get()
        if hydra.job.chdir:
            raise ConfigError(
                "hydra.job.chdir=true: paths in settings are relative to the folder where a command starts; "
                "leave it out, and start the command in the folder of your choice"
            )
        multirun = hydra.mode == RunMode.MULTIRUN
        swept = (
            (
                str(Path(hydra.sweep.dir)),
                None if OmegaConf.is_missing(hydra.job, "num") else int(hydra.job.num),
            )
            if multirun
            else ()
        )
        session = cls(config, composed, _command_line(hydra), steps, *swept)
        if multirun and session._processes > 1:
            raise ConfigError(
                f"trainer.devices={config.trainer.get('devices', 'auto')} within a multirun: each process "
                "would start the whole sweep again; sweep with trainer.devices=1, or run the jobs one by one"
            )
        return session

    def __enter__(self) -> Self:
        config = self.config
        if not self.first:
            end_with_parent()
        if self._alone:
            # Lightning reads it off variables that another program may have left
            setattr(rank_zero_only, "rank", 0)  # noqa: B010
        logger = logging.getLogger("lrt")
        logger.handlers = [RichHandler(console=self.console, show_path=False, show_time=False)]
        logger.setLevel(logging.INFO if self.first else logging.WARNING)
        logger.propagate = False
        if config.trainer.get("profiler") is not None:  # what it measured is logged at INFO
            logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
        # Lightning's own tree utilities trip over a deprecation of torch's at every step
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        quiet_loading()
        L.seed_everything(config.seed, workers=True, verbose=False)
        for setting in ("artifacts", "report", "logs"):
            check_writable(Path(getattr(config.paths, setting)), f"paths.{setting}")
        self.config = pin_revisions(config, self.cache)
        if self.first:
            wanted = config.logging.mode != "disabled"
            self.tracking.open_wandb(self.tracking.identity.id_in(self.cache) if wanted else None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without this a multirun writes all its jobs into one run, and a failed job spoils the next.
        self.tracking.close(error)

    def finish(self, outcome: dict[str, Any]) -> float | None:
        """Writes the run's outcome (a file in its folder, a row of a sweep) and returns the metric that
        `optimized_metric` names.

        Raises ConfigError where the outcome has no such number.
        """
        file = Path(self.config.paths.logs) / OUTCOME
        write_durably(file, json.dumps(self.published.masked(outcome), indent=1).encode())
        if (path := self.config.optimized_metric) is None:
            return None
        value: Any = outcome
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, int | float):
            raise ConfigError(f"optimized_metric={path} is no number of this run's outcome ({file})")
        return float(value)

    def print(self, text: str) -> None:
        """Prints a line; a path in it is not broken at the terminal's edge."""
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def reported(self, page: Path, what: str = "report") -> None:
        """Says where a page of this run is, and links the working folder's `report` to it.

        A job of a multirun, and a report in a folder of the user's choice, are not linked.
        """
        single = HydraConfig.get().mode != RunMode.MULTIRUN
        if single and self.report.resolve().is_relative_to(Path(self.config.paths.logs).resolve()):
            link_newest(self.report)
        self.print(f"{what}: {page}")

    def leave_latest(self, paths: Mapping[str, Path]) -> None:
        """Leaves this run's results under `artifacts/latest` by readable names, with its folder and report.

        paths  By name; what does not exist is skipped. A job of a multirun, and a further process, leave
               nothing.
        """
        if HydraConfig.get().mode == RunMode.MULTIRUN or not self.first:
            return
        reported = {"report": self.report, "results.json": self.report / "results.json"}
        folder = point_latest(self.cache.folder, {"run": Path(self.config.paths.logs), **reported, **paths})
        if folder is not None:
            self.print(f"by readable names: {folder}")

    def print_table(self, table: Table) -> None:
        """Prints a table as wide as the terminal allows."""
        self.console.print(table)

    @property
    def first(self) -> bool:
        """Whether this is the first (or only) process of a distributed fit, which reports and writes."""
        return self._alone or int(getattr(rank_zero_only, "rank", None) or 0) == 0

    @property
    def _alone(self) -> bool:
        """Whether the fit has one process, whatever ranks the environment names (LOCAL_RANK, srun)."""
        return self._processes == 1

    @property
    def models(self) -> Path:
        """Where dequantised models are kept."""
        return Path(self.config.paths.models)

    @property
    def report(self) -> Path:
        """Where the report goes."""
        return Path(self.config.paths.report)

    @property
    def row_settings(self) -> RowSettings:
        """What a row is, from the config's sections."""
        config = self.config
        return RowSettings(
            config.filter,
            config.pool,
            config.corpus.rules,
            config.evaluation.folds,
            config.products,
            config.evaluation.shuffled_draws,
            config.map.bias,
            config.batches,
            config.seed,
        )

    @cached_property
    def fit_settings(self) -> FitSettings:
        """How maps are fitted, from the config's sections."""
        config = self.config
        return FitSettings(
            config.map,
            config.fit,
            config.batches,
            config.trainer,
            config.callbacks,
            config.ckpt_path,
            config.seed,
        )

    @property
    def fit_output(self) -> FitOutput:
        """Where fits log to."""
        program = "python train.py" if Path("train.py").is_file() else "lrt train"
        command = f"{program} {shlex.join(self.arguments)}".rstrip()
        return FitOutput(
            self.tracking.loggers, self.config.paths.logs, command, most_sums=self.config.sums_gb * 1e9
        )


def _command_line(hydra: Any) -> list[str]:
    """The arguments that chose a run's settings, those with which Hydra found its configs among them."""
    # each source knows who named it: the command line by --config-dir
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    searched = [word for word in hydra.overrides.hydra if word.startswith("hydra.searchpath=")]
    words = [word for path in folders for word in ("--config-dir", path)]
    if hydra.job.config_name not in PROGRAMS:
        words += ["--config-name", str(hydra.job.config_name)]
    return [*words, *as_typed(hydra.overrides.task), *searched]


def link_newest(report: Path, link: Path = Path("report")) -> None:
    """Makes `report` in the working folder a link to a run's report. A file or folder there is left alone."""
    if link.exists() and not link.is_symlink():
        log.warning("%s is a file or folder, not a link, and may hold an earlier report", link)
        return
    new = link.with_name(f".{link.name}-{os.getpid()}")
    try:
        new.symlink_to(os.path.relpath(report, link.parent), target_is_directory=True)
        new.replace(link)
    except OSError as error:  # a file system without links, or a folder that cannot be written
        log.warning("%s was not linked to %s: %s", link, report, error)


def without_folder(text: str) -> str:
    """The text with paths relative to the working folder: a report that is passed on names no folder of the
    machine it was made on."""
    return text.replace(f"{Path.cwd()}/", "")


def check_writable(folder: Path, setting: str) -> None:
    """Makes the folder; raises ConfigError naming the setting where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".writable-{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ConfigError(
            f"{setting}={folder} cannot be written ({error.strerror}): set {setting} to a folder that can"
        ) from error
