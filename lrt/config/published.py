"""A config as it may leave this process: without what environment variables hold."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from lrt.config.pair import PairSettings
from lrt.config.reading import as_plain, config_errors, with_texts
from lrt.models import ModelSpec


class Published:
    """A config as it may leave this process, in reports and W&B: with `${oc.env:NAME}` in place of what an
    environment variable holds.

    settings  The config as plain containers.

    `masked` does the same to results, in which texts of the config occur. Variables that only `logging`
    names are not masked there: they say where W&B puts the run, and W&B reads most of them by itself.
    Raises ConfigError as `as_plain`.
    """

    def __init__(self, composed: DictConfig) -> None:
        self._texts: dict[str, str] = {}
        names: dict[str, str] = {}

        def name_alone(name: str, *default: Any) -> Any:
            if name not in os.environ:
                return oc.env(name, *default)
            return names.setdefault(os.environ[name], f"${{oc.env:{name}}}")

        OmegaConf.register_new_resolver("oc.env", name_alone, replace=True)
        try:
            with config_errors():
                for section in composed:
                    node = None if section == "logging" else composed[section]
                    if OmegaConf.is_config(node):
                        OmegaConf.to_container(node, resolve=True)
            self._texts = {value: name for value, name in names.items() if _is_word(value)}
            self.settings = as_plain(composed)
        finally:
            OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)

    def masked(self, data: Any) -> Any:
        """Plain data with its texts masked, wherever a variable's value occurs as a word or path.

        A value that is also a key of the data is kept: it names something there, as a behaviour.
        """
        texts = {value: name for value, name in self._texts.items() if value not in set(_keys(data))}
        if not texts:
            return data
        longest_first = sorted(texts, key=len, reverse=True)
        values = re.compile("|".join(rf"(?<!\w){re.escape(value)}(?!\w)" for value in longest_first))
        return with_texts(data, lambda text: values.sub(lambda match: texts[match[0]], text))

    def labelled(self, pair: PairSettings) -> PairSettings:
        """The pair with its names, which are for people and go into reports and maps, masked."""
        *sources, target = (replace(spec, name=self._label(spec)) for spec in (*pair.sources, pair.target))
        return replace(pair, name=self.masked(pair.name), source=tuple(sources), target=target)

    def _label(self, spec: ModelSpec) -> str:
        path = str(self.masked(spec.path))
        # derived from a path whose last part a variable holds
        derived = path.endswith("}") and spec.name in spec.path
        return path.rpartition("/")[2] if derived else str(self.masked(spec.name))


def _is_word(value: str) -> bool:
    """Whether a text differs from figures and signs: numbers stay, as those of the results do."""
    try:
        return re.search(r"\w", value) is not None and not math.isfinite(float(value))
    except ValueError:
        return value.casefold() not in ("true", "false", "null", "none")


def _keys(data: Any) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _keys(value)
