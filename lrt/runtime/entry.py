"""From the command line to a run: Hydra composes, the user's mistakes come back as one plain message."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

import lrt
from lrt.activations import StoreError
from lrt.corpora import CorpusError
from lrt.lab.shipped import folder_of
from lrt.mapping import MapError, NotConverged
from lrt.runtime.targets import refuse_other_targets

CONF = Path(lrt.__file__).parent.parent / "conf"
# what a user can fix; anything else is a fault of ours and keeps its traceback
MENDABLE = (
    ValueError,
    OSError,
    FloatingPointError,  # a fit that diverged
    NotConverged,
    StoreError,
    CorpusError,
    MapError,
    OmegaConfBaseException,
)


STOPPED = 130  # as a shell tells a program that Ctrl-C ended


class JobFailed(CompactHydraException):
    """A job of a multirun that its user can fix; Hydra prints it without a traceback."""


def register_resolvers() -> None:
    """Makes `${storybook:NAME}` the folder of a shipped family model, and `${report_folder:}` the one
    that a report goes to: the jobs of a multirun would overwrite each other's."""
    OmegaConf.register_new_resolver("storybook", lambda name: str(folder_of(name)), replace=True)

    def report_folder() -> str:
        hydra = HydraConfig.get() if HydraConfig.initialized() else None
        multirun = hydra is not None and hydra.mode == RunMode.MULTIRUN
        return str(Path(hydra.runtime.output_dir) / "report") if hydra and multirun else "report"

    OmegaConf.register_new_resolver("report_folder", report_folder, replace=True)


def command(main: Callable[[DictConfig], Any], name: str) -> int:
    """Runs `main` on the config `conf/NAME.yaml` and the command line's overrides.

    A mistake of the user's is printed without a traceback, and the program exits with 1
    (HYDRA_FULL_ERROR=1 shows where it was raised). In a multirun it is raised too, so that Hydra
    records the job as failed and runs the others; what `main` returns goes into the sweep's record.
    """
    register_resolvers()
    refuse_other_targets()

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
    def run(config: DictConfig) -> Any:
        try:
            try:
                return main(config)
            except SystemExit as left:
                if isinstance(left.__context__, KeyboardInterrupt):  # what Lightning makes of Ctrl-C
                    raise KeyboardInterrupt from None
                raise
        except KeyboardInterrupt:
            # what was under way is lost, what was finished is not: each stage keeps its own
            where = OmegaConf.select(config, "paths.artifacts") or OmegaConf.select(config, "work") or "."
            Console(stderr=True, soft_wrap=True).print(
                "[bold]stopped.[/] What was recorded, fitted and measured is kept under "
                f"{_escaped(where)} (whole shards, the last checkpoint of a fit, batches "
                "of a measurement); the same command goes on where it was.",
                highlight=False,
            )
            sys.exit(STOPPED)
        except MENDABLE as error:
            if os.environ.get("HYDRA_FULL_ERROR"):
                raise
            # soft: a command to be copied must not be broken at the terminal's edge
            Console(stderr=True, soft_wrap=True).print(
                f"[bold red]error:[/] {_escaped(error)}\n[dim](HYDRA_FULL_ERROR=1 shows where it was raised)[/]",
                highlight=False,
            )
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise JobFailed(str(error)) from error
            sys.exit(1)

    run()
    return 0


def _escaped(error: object) -> str:
    return str(error).replace("[", r"\[")
