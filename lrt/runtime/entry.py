"""From the command line to a run: Hydra composes, the user's mistakes come back as one plain message."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

import lrt
from lrt.activations import StoreError
from lrt.corpora import CorpusError
from lrt.lab.shelf import folder_of
from lrt.mapping import MapError

CONF = Path(lrt.__file__).parent.parent / "conf"
# what a user can mend; anything else is a fault of ours and keeps its traceback
MENDABLE = (ValueError, OSError, StoreError, CorpusError, MapError, OmegaConfBaseException)


def register_resolvers() -> None:
    """Makes `${storybook:NAME}` the folder of a shipped family model."""
    OmegaConf.register_new_resolver("storybook", lambda name: str(folder_of(name)), replace=True)


def command(main: Callable[[DictConfig], None], name: str) -> int:
    """Runs `main` on the config `conf/NAME.yaml` and the command line's overrides.

    A mistake of the user's is printed without a traceback, and the program exits with 1. In a
    multirun it is raised, so that Hydra records the job as failed and runs the others.
    """
    register_resolvers()

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
    def run(config: DictConfig) -> None:
        try:
            main(config)
        except MENDABLE as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            Console(stderr=True).print(f"[bold red]error:[/] {_escaped(error)}", highlight=False)
            sys.exit(1)

    run()
    return 0


def _escaped(error: BaseException) -> str:
    return str(error).replace("[", r"\[")
