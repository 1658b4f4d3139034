"""The oracle world (design, section 7): a target that is the exact image of its source."""

from dataclasses import dataclass

import pytest
import torch
from small_behaviours import choice_behaviour, text_behaviour
from storybook_models import image_of, semi_orthogonal, tiny_llama

from lrt.evaluation import (
    Behaviour,
    ContrastStates,
    ModelStates,
    SteerableModel,
    TransferMaps,
    directions,
    measure,
)
from lrt.lab.grammar import pages
from lrt.mapping import AffineMap, LayerConcat, Moments, ridge_at
from lrt.models import LanguageModel
from lrt.models.padding import pad
from lrt.models.prompts import encode
from lrt.steering import Mapping, last_token_states

C, LAYER, STRENGTH = 2.5, 1, 1.0


@dataclass
class World:
    source: LanguageModel
    target: LanguageModel
    q: torch.Tensor
    affine: AffineMap
    shuffled: AffineMap
    untrained: AffineMap
    moments: Moments


def rows(lm: LanguageModel, texts: list[str]) -> torch.Tensor:
    tokens, mask = pad(encode(lm.tokenizer, texts), side="right")
    return lm.hidden_states(tokens, [LAYER], mask)[LAYER][mask.bool()]


@pytest.fixture(scope="module", params=[48], ids=["wider"])
def world(request: pytest.FixtureRequest, story_lm: LanguageModel) -> World:
    q = semi_orthogonal(request.param, story_lm.width)
    target = image_of(story_lm, q, C)
    stream = pages(3, "held_out")
    texts = [next(stream).text for _ in range(60)]
    x, y = rows(story_lm, texts), rows(target, texts)
    other = rows(tiny_llama(story_lm.tokenizer, seed=9), texts)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))

    def fitted(a: torch.Tensor, b: torch.Tensor, weight: float) -> tuple[AffineMap, Moments]:
        moments = Moments(a.shape[1], b.shape[1], products="float64")
        moments.update(a, b)
        return ridge_at(moments, weight), moments

    affine, moments = fitted(x, y, 1e-6)
    return World(
        story_lm,
        target,
        q,
        affine,
        fitted(x, y[order], 1e-6)[0],
        fitted(other, y, 1.0)[0],
        moments,
    )


def test_hidden_states_are_the_image_and_logits_the_same(world: World) -> None:
    tokens, mask = pad(encode(world.source.tokenizer, [i.prompt for i in choice_behaviour().items]))
    layers = range(world.source.depth)
    ours = world.source.hidden_states(tokens, layers, mask)
    theirs = world.target.hidden_states(tokens, layers, mask)
    for layer in layers:
        image = C * ours[layer] @ world.q.T.float()
        torch.testing.assert_close(theirs[layer][mask.bool()], image[mask.bool()], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        world.target.logits(tokens, mask, keep="last"),
        world.source.logits(tokens, mask, keep="last"),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_map_is_the_rotation(world: World) -> None:
    assert world.moments.fvu_of(world.affine) < 1e-8
    torch.testing.assert_close(world.affine.weight, C * world.q.to(world.affine.weight), atol=1e-2, rtol=0)
    assert float(world.affine.bias.norm()) < 0.05
    assert world.moments.fvu_of(world.shuffled) > 0.9


def units(world: World, behaviour: Behaviour) -> dict[str, torch.Tensor]:
    layers = [LayerConcat((LAYER,), lm.width) for lm in (world.source, world.target)]
    own = [
        ModelStates(
            *(last_token_states(lm, t, LAYER) for t in (behaviour.positives, behaviour.negatives)),
            layers[side],
            f"model {side}",
            {LAYER: 1.0},
        )
        for side, lm in enumerate((world.source, world.target))
    ]
    states = ContrastStates("x", *own)
    mapping = Mapping(world.affine, *layers, "model 0", "model 1", {LAYER: 1.0})
    maps = TransferMaps.of(mapping, {"x": states}, shuffled=[world.shuffled.directions])
    rows = directions("x", {"x": states}, maps, layer=LAYER, random_draws=4, seed=0)
    return rows | {
        "source": torch.nn.functional.normalize(states.source_vector, dim=0)[None],
        "untrained": torch.nn.functional.normalize(
            world.untrained.directions(states.source_vector).float(), dim=0
        )[None],
    }


def scores(world: World, behaviour: Behaviour, names: list[str]) -> dict[str, torch.Tensor]:
    of, norm = units(world, behaviour), 5.0
    by_condition = {}
    for name in ("none", *names):
        lm = world.source if name == "source" else world.target
        model = SteerableModel(lm, LAYER, norm if name == "source" else C * norm)
        unit = of["native" if name == "none" else name][0]
        cells = model.conditions(name, unit, [0.0 if name == "none" else STRENGTH], 1)
        rows = measure(lm, LAYER, behaviour, "test", behaviour.test, cells)
        by_condition[name] = torch.tensor([r.value for r in rows], dtype=torch.float64)
        if behaviour.is_choice:
            continue
        by_condition[f"{name}/text"] = [r.text for r in rows]  # type: ignore[assignment]
    return by_condition


def test_transferred_propensity_is_the_native_one_and_the_sources_own(world: World) -> None:
    behaviour = choice_behaviour()
    of = units(world, behaviour)
    assert float(of["transferred"][0] @ of["native"][0]) > 1 - 1e-5
    by_condition = scores(world, behaviour, ["native", "transferred", "source"])
    change = by_condition["native"] - by_condition["none"]
    assert change.abs().min() > 0.1  # it steers
    torch.testing.assert_close(by_condition["transferred"], by_condition["native"], rtol=0, atol=5e-3)
    torch.testing.assert_close(by_condition["source"], by_condition["native"], rtol=0, atol=5e-3)


def test_transferred_texts_are_the_native_ones(world: World) -> None:
    by_condition = scores(world, text_behaviour(), ["native", "transferred", "source"])
    assert by_condition["transferred/text"] == by_condition["native/text"] == by_condition["source/text"]  # type: ignore[comparison-overlap]
    assert by_condition["native/text"] != by_condition["none/text"]  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("control", ["shuffled", "untrained", "random"])
def test_maps_that_ought_to_fail_do(world: World, control: str) -> None:
    behaviour = choice_behaviour()
    of = units(world, behaviour)
    assert float(of[control][0] @ of["native"][0]) < 0.8
    by_condition = scores(world, behaviour, ["native", "transferred", control])
    gap = (by_condition[control] - by_condition["native"]).abs()
    assert gap.max() > 100 * (by_condition["transferred"] - by_condition["native"]).abs().max()
    assert gap.max() > 0.3
