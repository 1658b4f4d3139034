"""A run on a pair whose models cut texts into different tokens."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from stages import SCALE, Stages, corpus, small_suite
from storybook_models import image_of, semi_orthogonal
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedTokenizerBase
from two_tokenizers import last_byte_model, tokenizer_of

from lrt.activations import RowFilter
from lrt.config import Layers, PairSettings
from lrt.errors import InvalidValue, UserError
from lrt.evaluation.resumable import ResumableMeasuring
from lrt.evaluation.storybook import StorybookSuite
from lrt.lab.grammar import pages
from lrt.mapping import ridge_at
from lrt.models import ModelSpec
from lrt.models.prompts import render_chat
from lrt.pipeline import ModelPair, UntrainedSource, load_pair
from lrt.pipeline.nulls import untrained_moments

MADE = ("activations", "packed", "moments", "states", "studies")


@pytest.fixture(scope="module")
def folder(family_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with the lab's tokenizer, and its exact image with another and a template of its own."""
    folder = tmp_path_factory.mktemp("two")
    source = last_byte_model(family_tokenizer)
    texts = [page.text for page in itertools.islice(pages(3, "held_out"), 40)]
    image = image_of(last_byte_model(tokenizer_of(texts, 420)), semi_orthogonal(48, 16), SCALE)
    for name, lm in (("source", source), ("target", image)):
        lm.model.save_pretrained(folder / name)
        lm.tokenizer.save_pretrained(folder / name)
    return folder


def settings_of(folder: Path, **changed: object) -> PairSettings:
    specs = [ModelSpec(path=str(folder / name), dtype="float32") for name in ("source", "target")]
    return PairSettings("two", *specs, **changed)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pair(folder: Path) -> ModelPair:
    return load_pair(settings_of(folder), folder / "cache")


@pytest.fixture(scope="module")
def stages(pair: ModelPair, folder: Path) -> Stages:
    evaluation = replace(Stages(pair, (), Path()).evaluation, temperature=0.0)
    return Stages(
        pair,
        small_suite(),
        folder / "artifacts",
        Layers(1, 1),
        corpus(train=4096, held_out=512),
        pool=1,
        evaluation=evaluation,
        untrained=(UntrainedSource(pair.models["source"].spec, 5, folder / "cache"),),
    )


@pytest.fixture(scope="module")
def reported(stages: Stages) -> dict[str, Any]:
    return stages.results()


def test_the_map_and_its_vectors_are_exact(stages: Stages) -> None:
    (card,) = stages.fitted().values()
    assert card["metrics"]["fvu"] < 1e-5
    for states in stages.vectors.at(stages.maps.whole.layers).values():
        transferred = states.source_vector @ stages.maps.whole.affine.weight.float().T
        assert float(cosine_similarity(transferred, states.target_vector, dim=0)) > 0.9999


def test_nulls_explain_nothing(stages: Stages) -> None:
    data = stages.maps.whole.data
    shuffled = ridge_at(data.shuffled[0], data.reference_ridge.weight)
    assert data.moments["test"].fvu_of(shuffled) > 0.9
    assert untrained_moments(data, stages.untrained[0]).count > 0.9 * data.train_moments.count


@pytest.mark.slow
def test_it_is_evaluated_and_reported(reported: dict[str, Any]) -> None:
    assert {each["name"] for each in reported["behaviours"]} == {"capitals", "bravery"}
    assert reported["map"]["aligned"]["source"]["tokens"] > reported["map"]["aligned"]["source"]["paired"]


def test_each_model_reads_chats_in_its_own_template(pair: ModelPair) -> None:
    suite, knowing = pair.with_suite(StorybookSuite(names=("capitals",), contrast_pairs=4))
    assert knowing.read_by("target", suite[0]) == suite[0]
    assert pair.source_template is not None
    texts = [render_chat(template, "Hello") for template in (pair.source_template, pair.template)]
    assert texts[1] == "[user] Hello\n[assistant]" != texts[0]


def test_rows_on_the_fly_are_those_of_the_store(stages: Stages) -> None:
    kept, computed = (stages.but(pool=4, recording__states=states) for states in ("native", "none"))
    rows = [
        list(each.states.in_order(each.rows.of(each.plan.candidates).selection).iterate("test"))
        for each in (kept, computed)
    ]
    for side in ("source", "target", "document"):
        one, other = (torch.cat([batch[side] for batch in batches]) for batches in rows)
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_the_sources_own_curve_is_of_items_as_it_reads_them(pair: ModelPair, stages: Stages) -> None:
    suite, knowing = pair.with_suite(
        StorybookSuite(names=("bravery",), contrast_pairs=4, development=3, test=3)
    )
    items = [replace(item, prompt=f"{item.prompt} Well,") for item in suite[0].test]
    own = replace(suite[0], test=tuple(items))
    reading = replace(knowing, source_behaviours={"bravery": own})
    seen = []

    def measured(self: Any, label: str, model: Any, items: Any, *rest: Any) -> Any:
        seen.append((label, [item.prompt for item in items]))
        return original(self, label, model, items, *rest)

    original = ResumableMeasuring.measured
    with mock.patch.object(ResumableMeasuring, "measured", measured):
        (studied,) = stages.but(pair=reading, suite=suite, folder=stages.folder / "own").studied()
    assert ("source", [item.prompt for item in items]) in seen
    measured_ids = {row.item for row in studied.study.measurements if row.condition == "source"}
    assert measured_ids == {item.id for item in suite[0].test}


@pytest.mark.slow
def test_a_second_run_computes_nothing(stages: Stages, reported: dict[str, Any]) -> None:
    before = [stages.files(kind) for kind in MADE]
    assert stages.but().results()["behaviours"] == reported["behaviours"]
    assert before == [
        stages.files(kind) for kind in ("activations", "packed", "moments", "states", "studies")
    ]


def test_tokens_without_a_partner_are_counted(stages: Stages) -> None:
    train = stages.text.paired["train"]
    read = stages.text.target_tokens()
    assert read == sum(sides["target"]["tokens"] for sides in stages.text.paired.values())
    assert read > 1.1 * sum(sides["source"]["tokens"] for sides in stages.text.paired.values())
    assert sum(map(stages.text.target_tokens, [(part,) for part in stages.text.parts])) == read
    assert train["source"]["paired"] == train["target"]["paired"] > 0.3 * train["target"]["tokens"]
    assert train["source"]["tokens"] > train["source"]["paired"]


def test_what_one_tokenizer_alone_allows_is_refused_at_once(folder: Path, stages: Stages) -> None:
    with pytest.raises(InvalidValue, match=r"pair\.template=auto"):
        load_pair(settings_of(folder, template="target"), folder / "cache", weights=False)
    with pytest.raises(InvalidValue, match="enable_thinking"):
        load_pair(
            settings_of(folder, template_kwargs={"enable_thinking": False}), folder / "cache", weights=False
        )
    with pytest.raises(UserError, match=r"filter\.token_ids"):
        stages.but(filter=RowFilter(token_ids=(3,))).fitted()
