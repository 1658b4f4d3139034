"""Defaults of the science folders' dataclasses, so that YAML states only what differs from them.

Hydra overrides only settings that the composed config has. The dataclasses are the one place of these
defaults. Here they become config nodes that conf/ refers to (`/defaults/filter@filter` and so on).
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any

from hydra.core.config_store import ConfigStore

from lrt.activations import RowFilter
from lrt.config.corpus import (
    HubSource,
    JsonlSource,
    StorybookSource,
    TextSource,
)
from lrt.evaluation import Instructions, Propensity, Refusal, StrengthGrid, Texts, WordProblems
from lrt.evaluation.storybook import StorybookSuite
from lrt.mapping import ClosedFormSpec, FitSpec, MapSpec
from lrt.models import ModelSpec

NODES: dict[str, type] = {
    "map": MapSpec,
    "storybook_source": StorybookSource,
    "text_source": TextSource,
    "jsonl_source": JsonlSource,
    "hub_source": HubSource,
    "filter": RowFilter,
    "grid": StrengthGrid,
    "model": ModelSpec,
    "gradient": FitSpec,
    "closed_form": ClosedFormSpec,
    "storybook_suite": StorybookSuite,
    "propensity_suite": Propensity,
    "refusal_suite": Refusal,
    "instructions": Instructions,
    "texts_suite": Texts,
    "word_problems_suite": WordProblems,
}

LEFT_OUT = {
    "map": ("rank", "penalty"),  # of one kind of map
    "text_source": ("paths",),  # to be given
    "jsonl_source": ("path",),
    "hub_source": ("path",),
    "storybook_source": ("plan",),  # a description, of which a config gives what it needs
    "model": ("name", "weights", "seed"),  # of the untrained source, which the pipeline makes itself
    "gradient": ("options",),  # of one optimizer: merged, they would reach another
}


def defaults_of(node: str) -> dict[str, Any]:
    """The fields of a node's dataclass that have a default, as plain data."""
    plain = {}
    for each in fields(NODES[node]):
        if each.name in LEFT_OUT.get(node, ()):
            continue
        if each.default is not MISSING:
            plain[each.name] = each.default
        elif each.default_factory is not MISSING:
            plain[each.name] = each.default_factory()
    return dict(json.loads(json.dumps(plain)))  # lists for tuples


def register_defaults() -> None:
    """Adds the nodes to Hydra's config store, as the group `defaults`."""
    store = ConfigStore.instance()
    for name in NODES:
        store.store(group="defaults", name=name, node=defaults_of(name))
