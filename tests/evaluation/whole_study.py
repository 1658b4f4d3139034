"""A behaviour through everything that is measured of it, on a tiny model that is its own target."""

from dataclasses import replace
from typing import Any

import torch

from lrt.evaluation import (
    Behaviour,
    ContrastStates,
    ItemSplit,
    SteerableModel,
    StrengthGrid,
    Study,
    TransferMaps,
    choose_layer,
    directions,
    study,
    summarise,
)
from lrt.mapping import AffineMap, LayerConcat
from lrt.models import LanguageModel
from lrt.steering import last_token_states

GRID = StrengthGrid((-0.5, 0.0, 0.5, 1.0), damage_limit=0.1)


def run(
    behaviour: Behaviour, lm: LanguageModel, told: Any = None, split: ItemSplit = "test", **options: Any
) -> tuple[Study, dict[str, Any]]:
    states = {}
    for name, reverse in (("it", 1), ("other", -1)):
        sides = (behaviour.positives, behaviour.negatives)[::reverse]
        pair = last_token_states(lm, sides[0], 1), last_token_states(lm, sides[1][:-1], 1)
        states[name] = ContrastStates(pair, pair, pair)
    generator = torch.Generator().manual_seed(0)

    def random_map() -> AffineMap:
        return AffineMap(torch.randn(32, 32, generator=generator), torch.randn(32, generator=generator))

    identity = AffineMap(torch.eye(32), torch.ones(32))
    maps = TransferMaps(identity, (random_map(), random_map()), (identity,) * 2, random_map())
    units = directions("it", states, maps, stack=LayerConcat((1,), 32), layer=1, random_draws=3, seed=0)
    model = SteerableModel(lm, 1, 4.0)
    vector = states["it"].source_vector
    chosen = choose_layer(behaviour, [(model, states["it"].target_vector)], GRID, **options)
    found = study(behaviour, model, vector, chosen, units, GRID, split=split, **options, progress=told)
    return found, units


def studied(behaviour: Behaviour, lm: LanguageModel) -> dict[str, Any]:
    """The summary of a behaviour's study. The map is the identity, so carried and native are one."""
    behaviour = replace(behaviour, damage_texts=behaviour.damage_texts[:4])  # a few tell as much, sooner
    found, _ = run(behaviour, lm)
    summary = summarise(behaviour, found, GRID)
    assert summary["transferred"] == summary["native"]
    assert {row.condition for row in found.measurements} >= {"none", "native", "random", "source", "prompt"}
    assert all((row.text is None) == behaviour.reads_logits for row in found.measurements)
    return summary
