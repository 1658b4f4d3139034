"""Maps that read several source models side by side: planted halves of what the target's state holds."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_pair import LAYER, Oracle
from storybook_models import image_of, semi_orthogonal
from torch import Tensor
from two_tokenizers import last_byte_model, tokenizer_of
from typer.testing import CliRunner

import lrt
from lrt.api import FittedMap, InvalidValue, SteeringVector, extract_vector, fit_map
from lrt.api.inspection import inspect
from lrt.cli.app import app
from lrt.corpora import PADDING, Document, pack
from lrt.models import LanguageModel, ModelSpec
from lrt.models.sides import STAYS
from lrt.models.stacked import StackedModel, StackedPart
from lrt.storage.catalogue import artifacts_in

SETTINGS = {"pool": 4, "folds": 4, "tokens": 4096}


class Half(LanguageModel):
    """A model that shows some columns of another's states, at a scale of its own."""

    def __init__(self, whole: LanguageModel, name: str, columns: slice, scale: float) -> None:
        super().__init__(ModelSpec(name), whole.model, whole.tokenizer)
        self.columns, self.scale = columns, scale
        self.width = len(range(whole.width)[columns])

    def hidden_states(
        self, tokens: Tensor, layers: Sequence[int], attention_mask: Tensor | None = None
    ) -> dict[int, Tensor]:
        states = super().hidden_states(tokens, layers, attention_mask)
        return {layer: self.scale * each[..., self.columns] for layer, each in states.items()}

    def vector(self, whole: SteeringVector) -> SteeringVector:
        return replace(whole, direction=self.scale * whole.direction[self.columns], model=self.spec.name)


@pytest.fixture(scope="module")
def halves(oracle: Oracle) -> tuple[Half, Half]:
    """Of unequal widths, one with states a thousand times as long."""
    return Half(oracle.source, "low", slice(0, 12), 1.0), Half(oracle.source, "high", slice(12, 32), 1000.0)


@pytest.fixture(scope="module")
def together(oracle: Oracle, halves: tuple[Half, Half], texts: list[str]) -> FittedMap:
    return fit_map([*halves], oracle.target, texts, layers=([LAYER, LAYER], LAYER), **SETTINGS)


@pytest.fixture(scope="module")
def vector(oracle: Oracle, prompts: tuple[list[str], list[str]]) -> SteeringVector:
    return extract_vector(oracle.source, *prompts, LAYER, behaviour="french")


def test_two_halves_together_are_exact_and_neither_is_alone(
    oracle: Oracle, halves: tuple[Half, Half], together: FittedMap, texts: list[str], vector: SteeringVector
) -> None:
    truth = 3.0 * oracle.q @ vector.direction.double()
    assert together.fvu < 1e-3
    result = together.transfer([half.vector(vector) for half in halves])
    assert (result.vector.direction.double() - truth).norm() < 0.02 * truth.norm()
    assert result.forecast.signal_to_noise is not None
    assert result.forecast.signal_to_noise > 100
    for half in halves:
        alone = fit_map(half, oracle.target, texts, layers=(LAYER, LAYER), **SETTINGS)
        assert alone.fvu > 0.1
        transferred = alone.transfer(half.vector(vector)).vector.direction.double()
        assert (transferred - truth).norm() > 0.2 * truth.norm()


def test_the_order_of_the_sources_does_not_matter(
    oracle: Oracle, halves: tuple[Half, Half], together: FittedMap, texts: list[str], vector: SteeringVector
) -> None:
    reverse = fit_map([*halves[::-1]], oracle.target, texts, layers=([LAYER, LAYER], LAYER), **SETTINGS)
    assert reverse.fvu == pytest.approx(together.fvu, abs=1e-4)
    ways = [
        fitted.transfer([half.vector(vector) for half in order]).vector.direction
        for fitted, order in ((together, halves), (reverse, halves[::-1]))
    ]
    torch.testing.assert_close(*ways, rtol=0, atol=1e-3 * float(ways[0].norm()))


def test_the_target_may_have_another_tokenizer() -> None:
    words = ["dog", "été", "chien", "story", "wolf", "naïve", "🎉", "it's"]
    texts = [" ".join(random.Random(n).choices(words, k=20)) for n in range(200)]
    whole = last_byte_model(tokenizer_of([]))
    target = image_of(
        last_byte_model(tokenizer_of([" ".join(words)] * 3)), semi_orthogonal(48, whole.width), 3.0
    )
    cut = whole.width // 3
    halves = [Half(whole, "low", slice(cut), 1.0), Half(whole, "high", slice(cut, None), 1000.0)]
    fitted = fit_map(halves, target, texts, layers=([LAYER, LAYER], LAYER), pool=1, context=64)
    assert fitted.fvu < 1e-5


@pytest.mark.slow
def test_one_source_in_a_list_is_that_source(oracle: Oracle, fitted: FittedMap, texts: list[str]) -> None:
    alone = fit_map([oracle.source], oracle.target, texts, layers=([LAYER], LAYER), pool=4)
    torch.testing.assert_close(alone.mapping.affine.weight, fitted.mapping.affine.weight)
    assert alone.fvu == fitted.fvu


@pytest.mark.slow
def test_several_layers_of_a_source_stand_side_by_side(
    oracle: Oracle, halves: tuple[Half, Half], texts: list[str], vector: SteeringVector
) -> None:
    both = fit_map([*halves], oracle.target, texts, layers=([[0, LAYER], LAYER], LAYER), **SETTINGS)
    assert [part.layers.layers for part in both.mapping.sources] == [(0, LAYER), (LAYER,)]
    assert both.fvu < 1e-2
    low, high = (half.vector(vector) for half in halves)
    assert both.transfer([replace(low, layer=0), low, high]).vector.layer == LAYER


def test_it_is_saved_whole(
    halves: tuple[Half, Half], together: FittedMap, vector: SteeringVector, tmp_path: Path
) -> None:
    together.save(tmp_path / "map")
    loaded = lrt.load_map(tmp_path / "map")
    assert isinstance(loaded, FittedMap)
    assert loaded.mapping.beside == together.mapping.beside
    assert repr(loaded) == repr(together)
    vectors = [half.vector(vector) for half in halves]
    assert torch.equal(loaded.transfer(vectors).vector.direction, together.transfer(vectors).vector.direction)
    page = (tmp_path / "map" / "README.md").read_text()
    assert "low + high" in page
    (listed,) = artifacts_in(tmp_path)
    assert listed.name == "low-high-1-1-to-image-48-1"
    assert "of high" in str(inspect(tmp_path / "map"))
    assert loaded.transfer(vectors).vector.map["beside"] == [["high", [LAYER]]]


def test_the_command_sorts_vectors_by_their_models(
    halves: tuple[Half, Half], together: FittedMap, vector: SteeringVector, tmp_path: Path
) -> None:
    together.save(tmp_path / "map")
    vectors = [half.vector(vector) for half in halves]
    for each in vectors:
        each.save(tmp_path / each.model)
    files = [str(tmp_path / name) for name in ("high", "low")]
    done = CliRunner().invoke(
        app, ["transfer", *files, "--map", str(tmp_path / "map"), "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    written = SteeringVector.load(tmp_path / "out")
    assert torch.equal(written.direction, together.transfer(vectors).vector.direction)


def test_documents_are_excluded_from_its_sums(
    halves: tuple[Half, Half], together: FittedMap, texts: list[str], vector: SteeringVector
) -> None:
    fewer = together.without(texts[:1])
    assert fewer.mapping.beside == together.mapping.beside
    vectors = [half.vector(vector) for half in halves]
    one, other = (each.transfer(vectors).vector.unit_direction for each in (fewer, together))
    assert float(one @ other) > 0.99


def test_vectors_of_the_wrong_models_are_refused(
    halves: tuple[Half, Half], together: FittedMap, vector: SteeringVector
) -> None:
    low, high = (half.vector(vector) for half in halves)
    for wrong, message in (
        ([high, low], "in this order"),
        ([low], "in this order"),
        (low, "in this order"),
        ([low, replace(high, layer=0)], "in this order"),
        ([low, vector], "another model"),
        ([low, replace(high, direction=high.direction[:-1])], "width"),
    ):
        with pytest.raises(InvalidValue, match=message):
            together.transfer(wrong)
    with pytest.raises(InvalidValue, match="several models"):
        _ = together.source_layer


def test_sources_and_layers_that_do_not_fit_are_refused(
    oracle: Oracle, halves: tuple[Half, Half], texts: list[str]
) -> None:
    low, high = halves
    for sources, layers, message in (
        ([low, high], ([LAYER], LAYER), "an entry for each"),
        ([low, high], (LAYER, LAYER), "an entry for each"),
        ([low, high], ("auto", LAYER), "an entry for each"),
        ([low, high], ([LAYER, 99], LAYER), r"layers\[0\]\[1\]"),
        ([low, high], ([LAYER, LAYER], [0, 1]), "one layer of the target"),
        ([low, low], ([LAYER, LAYER], LAYER), "each once"),
        ([], ([], LAYER), "at least one"),
        ([low, "high"], ([LAYER, LAYER], LAYER), r"source\[1\]"),
    ):
        with pytest.raises(InvalidValue, match=message):
            fit_map(sources, oracle.target, texts, layers=layers, **SETTINGS)


WORDS = ["dog", "été", "chien", "story", "wolf", "naïve", "🎉", "it's", "北京", "x_1", "\r\n"]


def texts_of(count: int, seed: int, words: list[str] = WORDS) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(10, 30))) for _ in range(count)]


@pytest.fixture(scope="module")
def unlike() -> tuple[list[Half], LanguageModel]:
    """Halves of one model's states, each in the tokens of its own tokenizer, and the image of the whole in
    those of a third."""
    words = ([], WORDS[:5], WORDS)
    models = [last_byte_model(tokenizer_of([" ".join(each)] * 3)) for each in words]
    cut = models[0].width // 3
    halves = [Half(models[0], "low", slice(cut), 1.0), Half(models[1], "high", slice(cut, None), 1000.0)]
    return halves, image_of(models[2], semi_orthogonal(48, models[2].width), 3.0)


@pytest.mark.slow  # a run of three tokenizers is quick: tests/pipeline
def test_sources_of_unlike_tokenizers_together_are_exact(unlike: Any) -> None:
    halves, target = unlike
    cut = [len(lm.tokenizer("chien it's 北京")["input_ids"]) for lm in (*halves, target)]
    assert len(set(cut)) == 3
    layers, settings = ([LAYER, LAYER], LAYER), {"pool": 1, "context": 64}
    ways = [
        fit_map(order, target, texts_of(120, 0), layers=layers, **settings)
        for order in (halves, halves[::-1])
    ]
    prompts = texts_of(12, 1, WORDS[:5]), texts_of(12, 2, WORDS[5:])
    native = extract_vector(target, *prompts, LAYER).direction
    for fitted, order in zip(ways, (halves, halves[::-1]), strict=True):
        assert fitted.fvu < 1e-4
        whole = [LanguageModel(half.spec, half.model, half.tokenizer) for half in order]
        vectors = [
            half.vector(extract_vector(lm, *prompts, LAYER)) for half, lm in zip(order, whole, strict=True)
        ]
        transferred = fitted.transfer(vectors).vector.direction
        torch.testing.assert_close(transferred, native, rtol=0, atol=1e-3 * float(native.norm()))
    train = ways[0].card["corpus"]["aligned"]["train"]
    assert train["source"]["paired"] == train["target"]["paired"] <= train["target"]["tokens"]
    alone = fit_map(halves[0], target, texts_of(120, 0), layers=(LAYER, LAYER), **settings)
    assert alone.fvu > 0.1


def test_steps_of_unlike_tokenizers_are_each_models_own_tokens(unlike: Any) -> None:
    halves, target = unlike
    tokenizers = [lm.tokenizer for lm in halves]
    corpus = pack(map(Document, texts_of(60, 4)), tokenizers, 48, {"train": None}, target=target.tokenizer)
    steps = corpus.splits["train"].tokens
    stack = StackedModel([StackedPart(half, (LAYER,)) for half in halves])
    padded = torch.from_numpy(steps[:2]).long()
    stacked = stack.hidden_states(padded.where(padded != PADDING, 0), [0])[0]
    assert (steps == STAYS).any()
    texts = [
        [lm.tokenizer.decode(row[row >= 0], clean_up_tokenization_spaces=False) for row in steps[:, :, n]]
        for n, lm in enumerate(halves)
    ]
    assert texts[0] == texts[1]
    for number, half in enumerate(halves):
        row = torch.from_numpy(steps[0, :, number])
        alone = half.hidden_states(row[row >= 0][None].long(), [LAYER])[LAYER][0]
        columns = slice(0, half.width) if number == 0 else slice(halves[0].width, None)
        at = (row[row != PADDING] >= 0).cumsum(0) - 1
        torch.testing.assert_close(stacked[0, : len(at), columns], alone[at])


def test_a_stack_has_the_states_of_its_parts_in_their_units(
    oracle: Oracle, halves: tuple[Half, Half]
) -> None:
    low, high = halves
    stack = StackedModel([StackedPart(low, (0, LAYER)), StackedPart(high, (LAYER,), 1000.0)])
    assert stack.width == 12 + 12 + 20
    tokens = torch.tensor([[3, 4, 5]])
    whole = oracle.source.hidden_states(tokens, [0, LAYER])
    expected = torch.cat([whole[0][..., :12], whole[LAYER]], dim=-1)
    torch.testing.assert_close(stack.hidden_states(tokens, [0])[0], expected)
