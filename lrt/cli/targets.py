"""What a config may make Hydra do before a run begins: callbacks, launchers, sweepers, log handlers.

A run instantiates nothing that its config names. Hydra itself does: callbacks by `_target_`, and factories of
log handlers by `class` and `()`. It also sets environment variables (`hydra.job.env_set`) and opens log
files. A config that someone was given must not be able to call just any function, to set a variable that a
later program obeys, or to write to any file.

A config may choose folders (`hydra.run.dir`, `hydra.sweep.dir`, `paths`). It may not choose what files in
them are called: ours have fixed names, and a log's name ends in `.log`.
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
# what Hydra, its sweeper by Optuna, or logging calls by its name
CALLED = ("_target_", "class", "()", "custom_search_space")
# shell commands of launchers, and variables of the jobs
RUN = re.compile(r"hydra\.job\.env_set|hydra\.launcher\.(setup|python|env_set)")
HANDLER = re.compile(r"hydra\.(job|hydra)_logging\.handlers\.[^.]+")
# neither `mode` (w empties a file) nor `.` (attributes, the opened file's name among them)
HANDLER_KEYS = frozenset({"class", "()", "formatter", "level", "filters", "stream", "filename", "encoding"})
# the one text with an interpolation in a section of log handlers
LOG_FILE = re.compile(
    r"\$\{hydra[:.]runtime\.output_dir\}/(\$\{hydra[:.]job\.name\}\.log|\w[\w-]*(\.[\w-]+)*\.log)"
)
NAME = re.compile(r"\w[\w-]*(\.[\w-]+)*")
# what an interpolation that is a whole value may be of, since Hydra declares these as text or numbers
TEXTS = r"hydra[:.](job|run|sweep|runtime)\.\w+"
IS_TEXT = re.compile(TEXTS.replace("[:.]", r"\.") + r"|hydra\.(help|hydra_help)\.\w+")
OF_TEXT = re.compile(r"\$\{" + TEXTS + r"\}|\$\{oc\.env:\w+\}")


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
        unresolved: Any = OmegaConf.to_container(config, resolve=False)
        for path, value in refused_in(unresolved):
            raise TargetRefused(
                f"{path}={value} is not allowed: a config may name Hydra's launchers and sweepers, our own "
                "sweep record and log handlers, log to NAME.log in the run folder, and set no environment "
                "variable. Sections of hydra must be written out, not interpolated. Remove it; a config that "
                "you were given should not hold it"
            )
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]


def refused_in(config: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Paths and values of what a config, not resolved, may not ask for.

    An interpolation counts as a name of its own: what it resolves to may change until Hydra reads it.
    """
    yield from _refused(config, "", _has_plain_name(config))


def _refused(value: Any, path: str, plain_name: bool) -> Iterator[tuple[str, str]]:
    match value:
        case Mapping():
            for key, inner in value.items():
                at = f"{path}.{key}" if path else str(key)
                if (
                    (key in CALLED and inner is not None and not _may_be_called(inner))
                    or (RUN.fullmatch(at) and inner)
                    or (at == "hydra.output_subdir" and inner not in (None, ".hydra"))
                    or (HANDLER.fullmatch(path) and key not in HANDLER_KEYS)
                ):
                    yield at, str(inner)
                elif key == "filename" and path.startswith("hydra."):
                    if not _is_log_file(inner, plain_name):
                        yield at, str(inner)
                else:
                    yield from _refused(inner, at, plain_name)
        case list():
            for number, inner in enumerate(value):
                yield from _refused(inner, f"{path}.{number}", plain_name)
        case str() if value.startswith("ext://") and value not in STREAMS:
            yield path, value
        case str() if re.match(r"hydra\b", path) and "${" in value and not _is_text(value, path):
            yield path, value


def _may_be_called(name: Any) -> bool:
    return isinstance(name, str) and (name in ALLOWED or PLUGIN.fullmatch(name) is not None)


def _is_log_file(file: Any, plain_name: bool) -> bool:
    """Whether this is a log in the run's folder."""
    return LOG_FILE.fullmatch(str(file)) is not None and (plain_name or "job.name}" not in str(file))


def _has_plain_name(config: Mapping[Any, Any]) -> bool:
    """Whether `hydra.job.name`, which log files are called by, is the name of a file and no path."""
    hydra = config.get("hydra")
    job = hydra.get("job") if isinstance(hydra, Mapping) else None
    name = job.get("name", "???") if isinstance(job, Mapping) else "???"
    if name == "${task_name}":
        name = config.get("task_name")
    return name == "???" or NAME.fullmatch(str(name)) is not None  # ???: that of the program


def _is_text(value: str, path: str) -> bool:
    """Whether an interpolation in Hydra's own section makes text only, never a section."""
    if any(maker in value for maker in MAKERS) or re.match(r"hydra\.(\w+_logging|callbacks)\b", path):
        return False
    if IS_TEXT.fullmatch(path):
        return True
    rest = OF_TEXT.sub("text", value)
    return not (rest.startswith("${") and rest.endswith("}"))
