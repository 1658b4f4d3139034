"""The last tokens' states of many texts: shared beginnings run once, with the numbers of whole texts."""

from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from model_families import ALL, tiny
from models.every_family import build
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoConfig, MptConfig

from lrt.errors import InvalidValue
from lrt.models import LanguageModel, ModelSpec
from lrt.models.last_states import LEVELS, SHORTEST, Segment, last_states, segments, tokens_run

WINDOWED = {"gemma2", "mistral"}  # windows of 4 tokens in `model_families`


def drawn(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 60, (length,), generator=generator).tolist() for length in lengths]


def questions(system: int = 6, count: int = 5) -> list[list[int]]:
    """A system prompt, questions of several lengths, and two answers of unequal length to each."""
    (before,) = drawn(system, seed=1)
    asked = [before + each for each in drawn(*range(5, 5 + count), seed=2)]
    return [question + answer for question in asked for answer in drawn(2, 4, seed=3)]


ODD = [
    *questions(),
    questions()[0],  # twice
    questions()[0][:9],  # the beginning of another
    *drawn(3, 1),  # alone
]


def plain(lm: LanguageModel, texts: list[list[int]], layers: list[int]) -> Tensor:
    """One text at a time."""
    states = [lm.hidden_states(torch.tensor([text]), layers) for text in texts]
    return torch.stack([torch.stack([each[layer][0, -1].float() for layer in layers]) for each in states])


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    errors = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(errors.max()) <= relative


@pytest.fixture
def counted() -> Iterator[Callable[[LanguageModel], list[int]]]:
    """Makes a model note the tokens of every pass, padding included."""
    with mock.patch.object(LanguageModel, "run", autospec=True, side_effect=LanguageModel.run) as run:
        yield lambda lm: [call.args[1].numel() for call in run.mock_calls if call.args[0] is lm]


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("layers", [[0, 2], [3]])
def test_the_two_ways_agree_in_every_family(
    lm_of: Callable[[str], LanguageModel], family: str, layers: list[int]
) -> None:
    lm = lm_of(family)
    states = last_states(lm, ODD, layers)
    assert states.shape == (len(ODD), len(layers), lm.width)
    assert_same(states, plain(lm, ODD, layers))
    assert lm.answers.get(f"extends {layers[-1]}", False) == (family not in WINDOWED)


@pytest.mark.parametrize(
    "family", ["mamba", "jamba", "rwkv", "mpt", "recurrent_gemma", "gemma3_text", "lfm2"]
)
def test_families_with_other_caches_too(family: str) -> None:
    lm = LanguageModel(ModelSpec("tiny"), build(family))
    layers = [0, len(lm.blocks) - 1]
    assert_same(last_states(lm, ODD, layers), plain(lm, ODD, layers))


def test_a_question_with_either_answer_runs_once(
    lm_of: Callable[[str], LanguageModel], counted: Callable[[LanguageModel], list[int]]
) -> None:
    lm = lm_of("llama")
    (question,) = drawn(20)
    pair = [[*question, 7], [*question, 8]]
    last_states(lm, pair, [2])  # and the family is asked once
    before = sum(counted(lm))
    last_states(lm, pair, [2])
    assert sum(counted(lm)) - before == 22 == tokens_run(lm, pair, 2)
    # a system prompt before many questions: it runs once, and so does each question
    (system,), asked = drawn(30, seed=1), drawn(*[10] * 8, seed=2)
    before = sum(counted(lm))
    texts = [system + q + [end] for q in asked for end in (7, 8)]
    last_states(lm, texts, [2])
    assert sum(counted(lm)) - before == 30 + 8 * 10 + 16 == tokens_run(lm, texts, 2)


def test_texts_longer_than_a_window_run_whole(counted: Callable[[LanguageModel], list[int]]) -> None:
    lm = tiny("llama")
    pair = [[*drawn(30)[0], end] for end in (7, 8)]
    lm.text_config.sliding_window = 40
    last_states(lm, pair, [2])
    assert counted(lm)[-2:] == [30, 2]
    lm.text_config.sliding_window = 31  # as many tokens as a text
    last_states(lm, pair, [2])
    assert counted(lm)[-1] == 62 == tokens_run(lm, pair, 2)


def test_a_local_window_of_another_name_is_respected() -> None:
    config = GPTNeoConfig(
        vocab_size=100,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
    )
    lm = LanguageModel(ModelSpec("tiny"), AutoModelForCausalLM.from_config(config).eval())
    texts = questions(system=30)
    assert_same(last_states(lm, texts, [1]), plain(lm, texts, [1]))


def test_distances_in_columns_are_noticed_in_half_precision() -> None:
    config = MptConfig(vocab_size=100, d_model=32, n_layers=2, n_heads=2)
    model = AutoModelForCausalLM.from_config(config).eval().to(torch.bfloat16)
    lm = LanguageModel(ModelSpec("tiny"), model)
    texts = questions(system=30)
    assert_same(last_states(lm, texts, [1]), plain(lm, texts, [1]), 0.01)
    assert not lm.answers["extends 1"]


@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
def test_batches_hold_like_lengths_and_no_more_tokens_than_allowed(
    lm_of: Callable[[str], LanguageModel], counted: Callable[[LanguageModel], list[int]], batch_tokens: int
) -> None:
    lm = lm_of("llama")
    last_states(lm, ODD, [1])
    calls = len(counted(lm))
    states = last_states(lm, ODD, [1], batch_tokens)
    assert max(counted(lm)[calls:]) <= max(batch_tokens, max(map(len, ODD)))
    assert_same(states, plain(lm, ODD, [1]))
    # a few long texts do not pad many short ones
    texts = drawn(*[10] * 100, *[60] * 10, seed=4)
    calls = len(counted(lm))
    last_states(lm, texts, [1])
    assert sum(counted(lm)[calls:]) <= 1.05 * sum(map(len, texts))


def test_a_batch_that_memory_does_not_hold_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama")
    last_states(lm, ODD, [2])
    run = lm.run

    def small(tokens: Tensor, *args: object, **more: object) -> object:
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(tokens, *args, **more)

    monkeypatch.setattr(lm, "run", small)
    assert_same(last_states(lm, ODD, [2]), plain(tiny("llama"), ODD, [2]))


# -- the tree ----------------------------------------------------------------------------------------


def texts_of(tree: list[Segment] | tuple[Segment, ...], before: tuple[int, ...] = ()) -> dict[int, list[int]]:
    texts: dict[int, list[int]] = {}
    for segment in tree:
        tokens = before + segment.tokens
        assert segment.tokens
        assert segment.texts or segment.longer
        for index in segment.texts:
            assert index not in texts
            texts[index] = list(tokens)
        texts |= texts_of(segment.longer, tokens)
    return texts


def depth(tree: list[Segment] | tuple[Segment, ...]) -> int:
    return 1 + max((depth(each.longer) for each in tree if each.longer), default=0)


def test_the_tree_holds_every_text_once() -> None:
    generator = torch.Generator().manual_seed(0)
    for letters in (1, 2, 3):
        lengths = torch.randint(1, 14, (60,), generator=generator).tolist()
        texts = [torch.randint(letters, (n,), generator=generator).tolist() for n in lengths]
        for levels in (1, 2, LEVELS):
            tree = segments(texts, levels)
            assert texts_of(tree) == dict(enumerate(texts))
            assert depth(tree) <= levels
            if letters > 1:
                assert (depth(tree) > 1) == (levels > 1)


def test_a_beginning_of_few_tokens_runs_with_each_text() -> None:
    (few, enough), (a, b) = drawn(SHORTEST - 1, SHORTEST), drawn(5, 6, seed=1)
    assert depth(segments([few + a, few + b])) == 1
    assert depth(segments([enough + a, enough + b])) == 2
    # texts that each begin with the one before: no deeper than allowed, whatever their number
    (chain,) = drawn(900)
    texts = [chain[:length] for length in range(1, 900)]
    assert depth(segments(texts)) == LEVELS
    assert texts_of(segments(texts)) == dict(enumerate(texts))


def test_what_has_no_state_to_read_is_refused(lm_of: Callable[[str], LanguageModel]) -> None:
    lm = lm_of("llama")
    with pytest.raises(ValueError, match="no tokens"):
        last_states(lm, [[1, 2], []], [1])
    with pytest.raises(ValueError, match="empty"):
        last_states(lm, [[1, 2]], [])
    with pytest.raises(InvalidValue):
        last_states(lm, [[1, 2]], [99])
    first = LanguageModel(ModelSpec("tiny"), lm.model)
    first.blocks = first.blocks[:2]
    with pytest.raises(ValueError, match="not loaded"):
        last_states(first, [[1, 2]], [2])
    assert last_states(lm, [], [1]).shape == (0, 1, lm.width)
