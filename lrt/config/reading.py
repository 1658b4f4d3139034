"""From what Hydra composed to typed data: every fault in one error, named by its path."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from lrt.config.errors import ConfigError
from lrt.config.schema import Config

Section = TypeVar("Section")

RENAMED = {
    r"span": "pool",
    r"filter\.massive": "filter.max_norm_ratio",
    r"corpus\.sources\.([^.]+)\.carries": r"corpus.sources.\1.fit_map_for",
    r"evaluation\.grid\.shares": "evaluation.grid.ablation_fractions",
    r"evaluation\.items": "evaluation.eval_split",
    r"evaluation\.untrained_source": "evaluation.untrained_draws",
    r"evaluation\.(probe|during_training)\.every": "evaluation.during_training.points",
    r"evaluation\.probe((\.\w+)?)": r"evaluation.during_training\1",
    r"analysis\.cuts": "analysis.stitching_depths",
    r"suite\.((?:parts\.[^.]+\.)?)ordinary": r"suite.\1neutral_texts",
    r"suite\.((?:parts\.[^.]+\.)?)judge\.attempts": r"suite.\1judge.max_retries",
    r"suite\.((?:parts\.[^.]+\.)?)judge\.pause": r"suite.\1judge.backoff",
    r"suite\.((?:parts\.[^.]+\.)?)judge\.at_once": r"suite.\1judge.max_concurrency",
    r"suite\.((?:parts\.[^.]+\.)?)judge\.around": r"suite.\1judge.template_affixes",
    r"ship_anyway": "allow_failed_checks",
    r"lab\.shelf": "lab.split",
}
"""Settings of earlier versions by pattern, and what each is called now."""

RENAMED_VALUES = {
    ("recording.non_finite", "leave_out"): "exclude",
    ("suite.kind", "several"): "combined",
    (r"corpus.sources.*.rows", "spans"): "pooled",
    (r"corpus.sources.*.rows", "ends"): "last_tokens",
}
"""Values of earlier versions: the setting (`*` for any part) and the value, and the value now."""


def new_name(path: str) -> str | None:
    """What the setting of an earlier version at this path is called now; None for any other."""
    for old, new in RENAMED.items():
        if match := re.fullmatch(old, path):
            return match.expand(new)
    return None


def _new_value(path: str, value: Any) -> str | None:
    for (setting, old), new in RENAMED_VALUES.items():
        if value == old and re.fullmatch(setting.replace(".", r"\.").replace("*", "[^.]+"), path):
            return new
    return None


def refuse_old_names(overrides: Iterable[str]) -> None:
    """Raises ConfigError for an override of the command line that names a setting of an earlier version."""
    for override in overrides:
        path = override.lstrip("+~").partition("=")[0]
        if (new := new_name(path)) is not None:
            raise ConfigError(f"{path} is now {new}: rename it")


def as_plain(composed: DictConfig) -> dict[str, Any]:
    """A composed config as plain containers. Raises ConfigError for missing values and interpolations."""
    with config_errors():
        plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    return dict(plain)


def as_yaml(published: Mapping[str, Any]) -> str:
    """Plain containers as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(published)))


@contextmanager
def config_errors() -> Iterator[None]:
    """Turns OmegaConf's errors into ConfigError."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise ConfigError(f"the config cannot be run: {error}") from error


def read_config(composed: DictConfig) -> Config:
    """The typed config of what Hydra composed.

    Raises ConfigError listing every unknown key, wrong type and impossible value with its path.
    """
    try:
        config = TypeAdapter(Config).validate_python(_home_expanded(as_plain(composed)))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    return replace(config, pair=config.pair.resolved())


def read_section(composed: DictConfig, section: str, kind: type[Section]) -> tuple[Section, DictConfig]:
    """A section that a program reads beside the settings of train.py, and these.

    Raises ConfigError listing every unknown key and impossible value of the section.
    """
    plain = _home_expanded(as_plain(composed)[section])
    try:
        read = TypeAdapter(dict[str, kind]).validate_python({section: plain})  # type: ignore[valid-type]
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    return read[section], OmegaConf.masked_copy(composed, [str(key) for key in composed if key != section])


def with_texts(data: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every text changed; its keys stay."""
    if isinstance(data, str):
        return change(data)
    if isinstance(data, Mapping):
        return {key: with_texts(value, change) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [with_texts(value, change) for value in data]
    return data


def _home_expanded(plain: Any) -> Any:
    """Settings with `~/` written out: nothing but a path begins so, and few of its readers would do it."""
    return with_texts(plain, lambda text: str(Path(text).expanduser()) if text.startswith("~/") else text)


def explain(error: ValidationError) -> str:
    """Every fault by its config path, in words."""
    faults: dict[str, list[str]] = {}
    for fault in error.errors():
        path = ".".join(_path(fault))
        faults.setdefault(path, []).append(_reason(fault, path))
    lines = [
        # checks of the dataclasses name their setting themselves
        " or ".join(reasons) if reasons[0].startswith(path) else f"{path}: {' or '.join(reasons)}"
        for path, reasons in faults.items()
    ]
    return "the config cannot be run:\n  " + "\n  ".join(lines)


def _reason(fault: Mapping[str, Any], path: str) -> str:
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        if (new := new_name(path)) is not None:
            return f"is now {new}; rename it"
        return "unknown setting (misspelt, or of another kind or group); conf/ lists what there is"
    if fault["type"] == "missing":
        return "missing; give a value"
    if fault["type"] == "union_tag_not_found":
        return "`kind` is missing; give one"
    if fault["type"] == "union_tag_invalid":
        tag, allowed = fault["ctx"]["tag"], fault["ctx"]["expected_tags"]
        if (new := _new_value(f"{path}.kind", tag)) is not None:
            return f"kind={tag!r} is now {new!r}"
        return f"invalid kind={tag!r}; allowed: {allowed}"
    if fault["type"] == "string_type":
        return f"must be text, got {fault['input']!r}; {_how_to_quote(path, fault['input'])}"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    if (new := _new_value(path, fault["input"])) is not None:
        return f"{fault['input']!r} is now {new!r}"
    return f"{fault['msg']}, got {fault['input']!r}"


def _how_to_quote(path: str, value: Any) -> str:
    """How to write a value of another type as text on the command line."""
    match value:
        case None | bool():
            text = json.dumps(value)
        case int():
            text = str(value)
        case _:  # 1e5 became 100000.0: what was typed is gone
            text = "AS-TYPED"
    setting, _, last = path.rpartition(".")
    if last.isdecimal():
        return f"quote each item: {setting}='[\"{text}\"]'"
    return f"quote it: {path}='\"{text}\"'"


# what pydantic puts into a path beside its keys: names of types, and the kind of a discriminated union behind
# the section that has one
_TYPES = re.compile(r"int|float|bool|str|none|(tuple|list|dict|literal|function-\w+)\W.*", re.IGNORECASE)
_UNIONS = re.compile(r"pair\.source|fit|suite|suite\.parts\.[^.]+|corpus\.sources\.[^.]+")


def _path(fault: Mapping[str, Any]) -> list[str]:
    path: list[str] = []
    kind_follows = False
    for part in map(str, fault["loc"]):
        if kind_follows:
            kind_follows = False
        elif not _TYPES.fullmatch(part):
            path.append(part)
            kind_follows = _UNIONS.fullmatch(".".join(path)) is not None
    return path
