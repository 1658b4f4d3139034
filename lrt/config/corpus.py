"""The section `corpus`: the text that the map is fitted on, one dataclass for each kind of source."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lrt.activations import PartRule, RowKind
from lrt.config.errors import ConfigError
from lrt.corpora import Case, Unit
from lrt.lab.grammar import Plan


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """What every part of the mixture has.

    weight       Share of the text, relative to the other parts.
    fit_map_for  Behaviours whose vectors are transferred with a map fitted on this part alone (with the other
                 parts that name them): text of a vector's own kind makes the better map for it. Behaviours
                 that no part names use the map of the whole corpus.
    rows         `pooled`: means of `pool` tokens. `tokens`: every token. `last_tokens`: each document's last
                 token alone, where vectors are read of texts like those.
    repeat       How often its rows enter a fit: more than once for a part that is small and matters.
    """

    weight: float = 1.0
    fit_map_for: tuple[str, ...] = ()
    rows: RowKind = "pooled"
    repeat: int = 1

