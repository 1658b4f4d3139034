"""What a config may make Hydra do before a run begins: callbacks, launchers, sweepers, log handlers.

A run instantiates nothing that its config names. Hydra itself does: callbacks by `_target_`, and factories of
log handlers by `class` and `()`. It also sets environment variables (`hydra.job.env_set`) and opens log
files. A config that someone was given must not be able to call just any function, to set a variable that a
later program obeys, or to write to any file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import wraps
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

# exact names: of any package some attribute leads to everything
ALLOWED = frozenset(
    {
        "lrt.cli.sweep.SweepReport",
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "logging.FileHandler",
        "logging.Formatter",
        "logging.NullHandler",
        "logging.StreamHandler",
        "colorlog.ColoredFormatter",
    }
)
# launchers and sweepers that are installed as Hydra's plugins (a module of the plugin, a class of it), and
# the samplers of Optuna's sweeper
PLUGIN = re.compile(r"hydra_plugins\.\w+\.\w+\.[A-Z]\w*(Launcher|Sweeper)|optuna\.samplers\.[A-Z]\w*Sampler")
# resolvers that make nodes, and so names, out of text
MAKERS = ("oc.create", "oc.decode")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
CALLED = ("_target_", "class", "()")
RUN_FOLDER = "${hydra:runtime.output_dir}/"


class TargetRefused(CompactHydraException):
    """A config asks Hydra for something that is not allowed; Hydra prints it without a traceback."""


def refuse_other_targets() -> None:
    """Checks every config that Hydra composes in this process from here on."""
    compose = ConfigLoaderImpl.load_configuration
    if hasattr(compose, "__wrapped__"):
        return

    # before it returns, since Hydra sets up its own logging with what it returns
    @wraps(compose)
    def checked(self: ConfigLoaderImpl, *given: Any, **named: Any) -> DictConfig:
        config = compose(self, *given, **named)
        for path, value in refused_in(OmegaConf.to_container(config, resolve=False)):
            raise TargetRefused(
                f"{path}={value} is not allowed: a config may name Hydra's launchers and sweepers, our own "
                "sweep record and log handlers, log to files in the run folder, and set no environment "
                "variable. Take it away; a config that you were given should not hold it"
            )
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]


def refused_in(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Paths and values of what a config may not ask for.

    An interpolation counts as a name of its own: what it resolves to is not known yet.
    """
    match value:
        case Mapping():
            for key, inner in value.items():
                at = f"{path}.{key}" if path else str(key)
                refused = (
                    (key in CALLED and not _may_be_called(inner))
                    or (at == "hydra.job.env_set" and inner)
                    or (key == "filename" and path.startswith("hydra.") and not _in_run_folder(inner))
                )
                if refused:
                    yield at, str(inner)
                else:
                    yield from refused_in(inner, at)
        case list():
            for number, inner in enumerate(value):
                yield from refused_in(inner, f"{path}.{number}")
        case str() if value.startswith("ext://") and value not in STREAMS:
            yield path, value
        case str() if path.startswith("hydra.") and any(maker in value for maker in MAKERS):
            yield path, value


def _may_be_called(name: Any) -> bool:
    return isinstance(name, str) and (name in ALLOWED or PLUGIN.fullmatch(name) is not None)


def _in_run_folder(file: Any) -> bool:
    """Whether a log file lies in the run's folder."""
    rest = str(file).removeprefix(RUN_FOLDER)
    return (
        str(file).startswith(RUN_FOLDER)
        and re.fullmatch(r"(\$\{hydra(:|\.)job\.name\}|[\w.-])+", rest) is not None
    )
