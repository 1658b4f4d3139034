"""From the command line to a run: Hydra composes, a user's mistakes come back as one plain message."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lrt.cli.composing import CONF, register, with_lists
from lrt.cli.stopping import stoppable
from lrt.cli.targets import refuse_other_targets
from lrt.cli.terminal import SYSTEM, escaped, print_error
from lrt.config import refuse_old_names
from lrt.errors import UserError


class JobFailed(CompactHydraException):
    """A job of a multirun that its user can fix; Hydra prints it without a traceback."""


def command(main: Callable[[DictConfig], Any], name: str, beside: Path | None = None) -> int:
    """Runs `main` on the config `NAME.yaml` and the command line's overrides.

    beside  A folder of configs beside the shipped one.

    A `UserError` is printed without a traceback, and the program exits with 1 (HYDRA_FULL_ERROR=1 shows
    where it was raised). In a multirun it is raised too, so that Hydra records the job as failed and runs the
    others. What `main` returns goes to the sweeper. Any other exception keeps its traceback.
    """
    register()
    refuse_other_targets()
    try:
        refuse_old_names(word for word in sys.argv[1:] if "=" in word and not word.startswith("-"))
    except UserError as error:
        print_error(error)
        sys.exit(1)

    sys.argv[1:] = with_lists(sys.argv[1:])
    if beside is not None:
        sys.argv[1:1] = ["--config-dir", str(beside)]

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
    def run(config: DictConfig) -> Any:
        try:
            with stoppable():
                return main(config)
        except KeyboardInterrupt as stop:
            if not getattr(rank_zero_only, "rank", None):  # further processes of a distributed fit are silent
                _print_stopped(config)
            sys.exit(128 + getattr(stop, "number", signal.SIGINT))  # as a shell reports it
        except UserError as error:
            _refuse(error)
        except OSError as error:
            if error.errno not in SYSTEM:
                raise
            _refuse(error)

    run()
    return 0


def _print_stopped(config: DictConfig) -> None:
    # what was under way is lost, what was finished is not: each stage is cached by itself
    where = OmegaConf.select(config, "paths.artifacts") or OmegaConf.select(config, "work") or "."
    Console(stderr=True, soft_wrap=True).print(
        "[bold]stopped.[/] What was recorded, fitted and measured is kept under "
        f"{escaped(where)} (whole shards, the last checkpoint of a fit, batches of a measurement). "
        "The same command continues from there.",
        highlight=False,
    )


def _refuse(error: Exception) -> None:
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    print_error(error)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise JobFailed(str(error)) from error
    sys.exit(1)
