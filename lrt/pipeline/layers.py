"""Which decoder blocks: the candidates of the map and those that are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lrt.config import ConfigError, Layers, Recording
from lrt.mapping import LayerConcat
from lrt.models.sides import SIDES, Side
from lrt.pipeline.pair import ModelPair
from lrt.pipeline.pair_model import PairModel


class LayerPair(NamedTuple):
    """Concatenated layers of the source and of the target."""

    source: LayerConcat
    target: LayerConcat

    def of(self, side: Side) -> LayerConcat:
        """The layers of a side."""
        return self.source if side == "source" else self.target


@dataclass(frozen=True)
class LayerPlan:
    """The layers that a run may use.

    candidates  Those of the map, or those it is chosen among.
    recorded    Those whose states are recorded: the candidates and those of `recording`.
    automatic   The sides whose layers are chosen by what steers.
    """

    candidates: LayerPair
    recorded: LayerPair
    automatic: frozenset[Side]


def plan_layers(layers: Layers, recording: Recording, pair: ModelPair) -> LayerPlan:
    """The layers that the config names, as decoder blocks.

    Raises ConfigError for a layer that a model lacks, and for one named twice.
    """
    candidates, recorded = [], []
    for side in SIDES:
        model, beside = pair.models[side], getattr(recording, side)
        if side not in pair.steered:  # several models, at the layers that they were loaded for
            if beside:
                raise ConfigError(
                    f"recording.{side}={beside if beside == 'all' else list(beside)}: of several source "
                    "models the layers of layers.source alone are recorded; leave it empty"
                )
            candidates.append(LayerConcat((0,), model.width))
            recorded.append(candidates[-1])
            continue
        wanted, setting = layers.of_one_model(side), f"layers.{side}"
        named: Sequence[int | float]
        if wanted == "auto":
            setting = f"recording.{side}"
            named = range(model.depth) if beside == "all" or not beside else beside
        else:
            named = wanted
        blocks = resolve(named, setting, model)
        more = resolve(range(model.depth) if beside == "all" else beside, f"recording.{side}", model, True)
        candidates.append(LayerConcat(blocks, model.width))
        recorded.append(LayerConcat(tuple(sorted({*blocks, *more})), model.width))
    automatic = frozenset(side for side in SIDES if getattr(layers, side) == "auto")
    return LayerPlan(LayerPair(*candidates), LayerPair(*recorded), automatic)


def resolve(
    depths: Sequence[int | float], setting: str, model: PairModel[Any], repeats: bool = False
) -> tuple[int, ...]:
    """Block indices of layers and depths.

    setting  The config's path, for messages.
    repeats  Whether a block may be named twice.

    Raises ConfigError.
    """
    blocks = tuple(model.resolve_layer(depth, setting) for depth in depths)
    if not repeats and len(set(blocks)) < len(blocks):
        raise ConfigError(
            f"{setting}={list(depths)} names a block twice: blocks {list(blocks)}; name each once"
        )
    return blocks
