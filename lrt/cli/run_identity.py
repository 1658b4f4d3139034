"""What W&B shows of a run before anything is measured: its name, group, tags and config, and its id."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lrt.config import Config
from lrt.report import layer_label
from lrt.report.plain import leaves
from lrt.storage.cache import JSON, Cache

LONGEST_TAG = 64
LONGEST_NAME = 128

NOT_THE_RUN = ("task_name", "evaluate", "tags", "logging", "paths", "optimized_metric")
"""Settings in which two commands differ that belong to one run, as train.py and evaluate.py do."""

OWN_COMMANDS = {"evaluate": "train"}
"""Commands whose run is that of another."""


@dataclass(frozen=True)
class RunIdentity:
    """A run's name, group, tags and searchable config in W&B.

    facts  What determines the run: commands with equal facts write into one.
    """

    name: str
    group: str | None
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    facts: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        config: Config,
        settings: Mapping[str, Any],
        sweep: str | None = None,
        job: int | None = None,
    ) -> RunIdentity:
        """The identity of a run with these settings.

        settings  The composed config as plain containers, without secrets.
        sweep     The folder of the multirun that it is a job of, and the job's number.
        """
        pair = f"{config.pair.name}{', reversed' if config.pair.reverse else ''}"
        layers = " to ".join(str(layer_label(side)) for side in (config.layers.source, config.layers.target))
        name = f"{pair}, layers {layers}, {config.map.kind} map, seed {config.seed}"
        if job is not None:
            name += f", job {job}"
        tags = (f"pair={pair}", f"map={config.map.kind}", f"suite={config.suite.kind}")
        facts = {key: value for key, value in settings.items() if key not in NOT_THE_RUN}
        command = OWN_COMMANDS.get(config.task_name, config.task_name)
        return cls(
            (config.logging.name or name)[:LONGEST_NAME],
            config.logging.group or sweep or pair[:LONGEST_NAME],
            tuple(dict.fromkeys(tag[:LONGEST_TAG] for tag in (*settings["tags"], *tags))),
            dict(flat(settings)),
            facts | {"command": command, "project": config.logging.project, "sweep": sweep, "job": job},
        )

    @property
    def all_tags(self) -> tuple[str, ...]:
        """Its tags, and those of WANDB_TAGS, which W&B reads only where it gets none."""
        named = (tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(","))
        return tuple(dict.fromkeys((*self.tags, *filter(None, named))))

    def id_in(self, cache: Cache) -> str | None:
        """W&B's id for it, the same for every command with these facts and artifacts.

        None where W&B knows the id by itself: of WANDB_RUN_ID, or of a W&B sweep.
        """
        if os.environ.get("WANDB_RUN_ID") or os.environ.get("WANDB_SWEEP_ID"):
            return None
        made: str = cache.made_once("wandb", self.facts, lambda: secrets.token_hex(8), JSON)
        return made


def flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings by path with `/` between its parts, each a number, a text, a truth value or None.

    W&B filters and groups by such values; of lists and of names with dots it does neither. A list is the text
    of its values.
    """
    for path, value in leaves(settings, "/"):
        yield path, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
