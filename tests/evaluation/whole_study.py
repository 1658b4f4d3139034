"""A whole study of a behaviour, on a tiny model that is its own target under the identity map."""

from dataclasses import replace
from typing import Any

import torch

from lrt.evaluation import (
    Behaviour,
    ContrastStates,
    ItemSplit,
    ModelStates,
    SourceCurve,
    SteerableModel,
    StrengthGrid,
    Study,
    TransferMaps,
    choose_layer,
    directions,
    study,
    summarise,
)
from lrt.evaluation.directions import Directions
from lrt.mapping import AffineMap, LayerConcat
from lrt.models import LanguageModel
from lrt.steering import Mapping, last_token_states

GRID = StrengthGrid((-0.5, 0.0, 0.5, 1.0), damage_limit=0.1)
LAYERS, NORMS = LayerConcat((1,), 32), {1: 4.0}


def run(
    behaviour: Behaviour, lm: LanguageModel, progress: Any = None, split: ItemSplit = "test", **options: Any
) -> tuple[Study, dict[str, Any]]:
    states = {}
    for name, reverse in (("it", 1), ("other", -1)):
        sides = (behaviour.positives, behaviour.negatives)[::reverse]
        pair = last_token_states(lm, sides[0], 1), last_token_states(lm, sides[1][:-1], 1)
        own = ModelStates(*pair, LAYERS, "tiny", NORMS)
        states[name] = ContrastStates(name, own, own, (own, own))
    generator = torch.Generator().manual_seed(0)
    identity = Mapping(
        AffineMap(torch.eye(32), torch.ones(32)), LAYERS, LAYERS, "tiny", "tiny", NORMS, "identity"
    )

    def random_map() -> Directions:
        weight, bias = torch.randn(32, 32, generator=generator), torch.randn(32, generator=generator)
        return AffineMap(weight, bias).directions

    maps = TransferMaps.of(
        identity,
        states,
        shuffled=[random_map(), random_map()],
        resampled=[identity.affine.directions] * 2,
        untrained=[random_map(), random_map()],
    )
    units = directions("it", states, maps, other="other", layer=1, random_draws=3, seed=0)
    model = SteerableModel(lm, 1, 4.0)
    vector = states["it"].source_vector
    chosen = choose_layer(behaviour, [(model, states["it"].target_vector)], GRID, **options)
    source = SourceCurve(model, vector)
    measured = study(behaviour, source, chosen, units, GRID, split=split, **options, progress=progress)
    return measured, units


def studied(behaviour: Behaviour, lm: LanguageModel) -> dict[str, Any]:
    """The summary of a behaviour's study. The map is the identity, so transferred and native are equal."""
    behaviour = replace(behaviour, damage_texts=behaviour.damage_texts[:4])  # enough, and faster
    measured, _ = run(behaviour, lm)
    summary = summarise(behaviour, measured, GRID)
    assert summary["transferred"] == summary["native"]
    assert {row.condition for row in measured.measurements} >= {
        "none",
        "native",
        "random",
        "source",
        "prompt",
    }
    assert all((row.text is None) == behaviour.reads_logits for row in measured.measurements)
    return summary
