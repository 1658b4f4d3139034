"""What a config may name to be called: our sweep's record, Hydra's launchers and sweepers, log handlers.

A run instantiates nothing that its config names. Hydra itself does, before a run begins: callbacks by
`_target_`, and factories of log handlers by `class` and `()`. A config that someone was given must not be
able to name just any function there.
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
# launchers and sweepers that are installed as Hydra's plugins: a module of the plugin, a class of it
PLUGIN = re.compile(r"hydra_plugins\.\w+\.\w+\.[A-Z]\w*(Launcher|Sweeper)")
# resolvers that make nodes, and so names, out of text
MAKERS = ("oc.create", "oc.decode")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
CALLED = ("_target_", "class", "()")


class TargetRefused(CompactHydraException):
    """A config names something that is not to be called; Hydra prints it without a traceback."""


def refuse_other_targets() -> None:
    """From here on every config that Hydra composes in this process is looked through."""
    compose = ConfigLoaderImpl.load_configuration
    if hasattr(compose, "__wrapped__"):
        return

    # before it returns, since Hydra sets up its own logging with what it returns
    @wraps(compose)
    def looked_through(self: ConfigLoaderImpl, *given: Any, **named: Any) -> DictConfig:
        config = compose(self, *given, **named)
        for where, name in named_in(OmegaConf.to_container(config, resolve=False)):
            raise TargetRefused(
                f"{where}={name} names something to be called that is none of Hydra's launchers and "
                "sweepers, our own record of sweeps or a log handler: take it away; a config that you were "
                "given should not hold it"
            )
        return config

    ConfigLoaderImpl.load_configuration = looked_through  # type: ignore[method-assign]


def named_in(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Places and names of what a config wants called, or looked up, beyond what is allowed. An interpolation
    is a name of its own: what it will come to is not known yet."""
    match value:
        case Mapping():
            for key, inner in value.items():
                at = f"{where}.{key}" if where else str(key)
                if key in CALLED and not _is_allowed(inner):
                    yield at, str(inner)
                else:
                    yield from named_in(inner, at)
        case list():
            for number, inner in enumerate(value):
                yield from named_in(inner, f"{where}.{number}")
        case str() if value.startswith("ext://") and value not in STREAMS:
            yield where, value
        case str() if where.startswith("hydra.") and any(maker in value for maker in MAKERS):
            yield where, value


def _is_allowed(name: Any) -> bool:
    return isinstance(name, str) and (name in ALLOWED or PLUGIN.fullmatch(name) is not None)
