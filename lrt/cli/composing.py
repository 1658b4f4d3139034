"""The shipped config, and composing it: for commands, and for a notebook or script of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

import lrt
from lrt.cli.config_files import name_unreadable_files
from lrt.cli.tracking import wandb_mode
from lrt.config.defaults import register_defaults
from lrt.lab.shipped import folder_of

PACKAGE = Path(lrt.__file__).parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
"""The shipped config: in an installed package beside its code, in a clone at the top level."""

WITHOUT_A_RUN = "outputs/composed"


def register() -> None:
    """Makes known what the shipped config refers to.

    `${storybook:NAME}` is the folder of a shipped model, `${run_folder:}` that of the run (outside of one
    `outputs/composed`), `${wandb_mode:}` what W&B's variables say, and `/defaults/NAME` the defaults of a
    dataclass.
    """

    def run_folder() -> str:
        config = HydraConfig.get() if HydraConfig.initialized() else None
        return str(config.runtime.output_dir) if config is not None else WITHOUT_A_RUN

    OmegaConf.register_new_resolver("storybook", lambda name: str(folder_of(name)), replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("wandb_mode", wandb_mode, replace=True)
    register_defaults()
    name_unreadable_files()


SEVERAL = "pair.source=["


def with_lists(overrides: Iterable[str]) -> list[str]:
    """Overrides of the command line as Hydra takes them: it merges no list (`pair.source=[A,B]`) into a
    section, so the section is removed first."""
    written: list[str] = []
    for override in overrides:
        written += ["~pair.source", f"+{override}"] if override.startswith(SEVERAL) else [override]
    return written


def as_typed(overrides: Iterable[str]) -> list[str]:
    """Overrides that `with_lists` wrote, as they were on the command line."""
    words = [*overrides]
    several = any(word.startswith(f"+{SEVERAL}") for word in words)
    words = [word for word in words if not (several and word == "~pair.source")]
    return [word[1:] if word.startswith(f"+{SEVERAL}") else word for word in words]


def compose_config(name: str, *overrides: str, folder: Path | str | None = None) -> DictConfig:
    """The config `NAME.yaml` with overrides as on the command line, ready for a command's `main`.

    folder  Further configs, as `--config-dir` names them.

    `main(compose_config("train", "experiment=micro"))` is the run of `lrt train experiment=micro`, in this
    process. Raises Hydra's errors for an unknown name or override.
    """
    register()
    search = [] if folder is None else [f"hydra.searchpath=[file://{Path(folder).resolve()}]"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name=name):
        config = compose(name, overrides=[*with_lists(overrides), *search], return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(Path(config.hydra.run.dir).absolute())
        config.hydra.runtime.cwd = str(Path.cwd())
        config.hydra.mode = "RUN"
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config
