"""A run whose source is two models side by side, each with half of what the target's state holds."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import SCALE, Stages, corpus, small_suite
from storybook_models import image_of, semi_orthogonal
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedTokenizerBase
from two_tokenizers import last_byte_model, tokenizer_of

import lrt
from lrt.config import ConfigError, Layers, PairSettings
from lrt.errors import InvalidValue
from lrt.lab.grammar import pages
from lrt.mapping import ridge_at
from lrt.models import LanguageModel, ModelSpec
from lrt.pipeline import ModelPair, UntrainedSource, load_pair
from lrt.pipeline.nulls import untrained_moments

WIDTH, HALF = 16, 8


@torch.no_grad()
def keeping(lm: LanguageModel, columns: slice, scale: float) -> LanguageModel:
    """The model with states that are zero but at some columns."""
    embedded = lm.model.model.embed_tokens.weight
    kept = embedded[:, columns] * scale
    embedded.zero_()
    embedded[:, columns] = kept
    return lm


@pytest.fixture(scope="module", params=[pytest.param("one", marks=pytest.mark.slow), "three"])
def folder(
    request: Any, family_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Halves of a model, at very different scales, and the image of the whole; with so many tokenizers."""
    folder = tmp_path_factory.mktemp("several")
    texts = [page.text for page in itertools.islice(pages(3, "held_out"), 40)]
    tokenizers = [family_tokenizer] * 3
    if request.param == "three":
        tokenizers = [family_tokenizer, tokenizer_of(texts[:2], 300), tokenizer_of(texts, 420)]
    low, high, whole = (last_byte_model(tokenizer) for tokenizer in tokenizers)
    models = {
        "low": keeping(low, slice(HALF), 1.0),
        "high": keeping(high, slice(HALF, None), 100.0),
        "target": image_of(whole, semi_orthogonal(48, WIDTH), SCALE),
    }
    for name, lm in models.items():
        lm.model.save_pretrained(folder / name)
        lm.tokenizer.save_pretrained(folder / name)
    return folder


def pair_of(folder: Path, *names: str, layers: Any = 1) -> ModelPair:
    specs = [ModelSpec(path=str(folder / name), dtype="float32") for name in (*names, "target")]
    return load_pair(
        PairSettings("", tuple(specs[:-1]), specs[-1]), folder / "cache", layers=Layers(layers, 1)
    )


def stages_of(folder: Path, *names: str) -> Stages:
    pair = pair_of(folder, *names)
    return Stages(
        pair,
        small_suite(),
        folder / "artifacts",
        Layers(1, 1),
        corpus(train=4096, held_out=512),
        recording=replace(Stages(pair, (), Path()).recording, source=()),
        pool=1,
        evaluation=replace(Stages(pair, (), Path()).evaluation, temperature=0.0),
        untrained=(UntrainedSource(pair.source_spec, 5, folder / "cache"),),
    )


@pytest.fixture(scope="module")
def stages(folder: Path) -> Stages:
    return stages_of(folder, "low", "high")


def cosines(stages: Stages) -> list[float]:
    affine = stages.maps.whole.affine

    def moved(vector: Tensor) -> Tensor:
        return vector @ affine.weight.float().T

    every = stages.vectors.at(stages.maps.whole.layers).values()
    return [float(cosine_similarity(moved(e.source_vector), e.target_vector, dim=0)) for e in every]


def test_the_stack_carries_what_neither_source_does_alone(stages: Stages, folder: Path) -> None:
    (card,) = stages.fitted().values()
    assert card["metrics"]["fvu"] < 1e-4
    assert min(cosines(stages)) > 0.9999
    assert [card["models"]["source"]["name"], card["beside"][0]["name"]] == ["low", "high"]
    alone = stages_of(folder, "low")
    (card,) = alone.fitted().values()
    assert card["metrics"]["fvu"] > 0.1
    assert "beside" not in card
    assert min(cosines(alone)) < 0.99


def test_nulls_explain_nothing(stages: Stages) -> None:
    data = stages.maps.whole.data
    shuffled = ridge_at(data.shuffled[0], data.reference_ridge.weight)
    assert data.moments["test"].fvu_of(shuffled) > 0.9
    (untrained,) = stages.untrained
    assert untrained_moments(data, untrained).count > 0.9 * data.train_moments.count
    assert all(part["weights"] == "random" for part in untrained.identity["side by side"])
    assert len({part["seed"] for part in untrained.identity["side by side"]}) == 2
    assert untrained.identity != stages.pair.identities["source"]


def test_the_map_transfers_the_vector_of_each_source(stages: Stages) -> None:
    stages.fitted()
    fitted = lrt.load_map(stages.maps.whole.folder)
    assert isinstance(fitted, lrt.FittedMap)
    states = stages.vectors.at(stages.maps.whole.layers)["capitals"]
    vectors = states.vectors("source")
    assert [(each.model, each.layer) for each in vectors] == [("low", 1), ("high", 1)]
    assert vectors[1].residual_norm > 20 * vectors[0].residual_norm  # in the model's own units
    moved = fitted.transfer(vectors).vector.direction
    assert float(cosine_similarity(moved, states.target_vector, dim=0)) > 0.9999
    saved = stages.maps.whole.folder / "vectors" / "capitals"
    assert {path.parent.name for path in saved.glob("*/layer-1")} >= {"source-0", "source-1", "transferred"}
    loaded = [lrt.SteeringVector.load(saved / f"source-{number}" / "layer-1") for number in (0, 1)]
    torch.testing.assert_close(fitted.transfer(loaded).vector.direction, moved)


@pytest.mark.slow
def test_it_is_evaluated_and_reported(stages: Stages) -> None:
    reported = stages.results()
    assert {each["name"] for each in reported["behaviours"]} == {"capitals", "bravery"}
    assert all(each["source"] is None for each in reported["behaviours"])
    assert reported["layers"]["source"] == ["low 1", "high 1"]
    assert reported["pair"]["source"]["name"] == "low + high"
    assert stages.but().results()["behaviours"] == reported["behaviours"]


@pytest.mark.slow
def test_rows_on_the_fly_are_those_of_the_store(stages: Stages) -> None:
    kept, computed, small = (
        stages.but(pool=4, recording__states=states) for states in ("native", "none", "int8")
    )
    rows = [
        list(each.states.in_order(each.rows.of(each.plan.candidates).selection).iterate("test"))
        for each in (kept, computed, small)
    ]
    for side in ("source", "target", "document"):
        one, other, quantised = (torch.cat([batch[side] for batch in batches]) for batches in rows)
        torch.testing.assert_close(one, other)
        assert (quantised - one).float().norm() <= 0.02 * one.float().norm()


@pytest.mark.slow
def test_the_order_of_the_sources_decides_the_columns_alone(stages: Stages, folder: Path) -> None:
    turned = stages_of(folder, "high", "low")
    assert turned.pair.identities["source"] != stages.pair.identities["source"]
    (one,), (other,) = stages.fitted().values(), turned.fitted().values()
    assert other["metrics"]["fvu"] == pytest.approx(one["metrics"]["fvu"], abs=1e-4)
    assert min(cosines(turned)) > 0.9999


def test_a_list_of_one_is_that_model(folder: Path) -> None:
    one, plain = pair_of(folder, "low"), ModelSpec(path=str(folder / "low"), dtype="float32")
    assert one.source_spec == plain
    assert one.steered == ("source", "target")


def test_layers_of_each_source(folder: Path) -> None:
    pair = pair_of(folder, "low", "high", layers=((0, 0.7), 1))
    assert pair.models["source"].width == 3 * WIDTH
    assert [part.layers.layers for part in pair.parts] == [(0, 2), (1,)]
    for layers, message in (
        ("auto", "an entry for each of low, high"),
        ((1, 1, 1), "an entry for each of low, high"),
        (((1, 1), 1), r"layers\.source\[0\].*each once"),
        (((), 1), r"layers\.source\[0\].*at least one"),
        ((1, 99), r"layers\.source\[1\]=99"),
    ):
        with pytest.raises((ConfigError, InvalidValue), match=message):
            pair_of(folder, "low", "high", layers=layers)
    with pytest.raises(InvalidValue, match="each once"):
        pair_of(folder, "low", "low")


def test_what_several_sources_cannot_have_is_refused(stages: Stages, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"recording\.source"):
        _ = stages.but(recording__source="all").plan
    with pytest.raises(ConfigError, match=r"pair\.source is one"):
        _ = stages_of(folder, "low").but(layers=Layers(((0, 1), 1), 1)).plan
