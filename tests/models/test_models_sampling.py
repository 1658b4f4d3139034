import numpy as np
import pytest
import torch
from scipy import stats

from lrt.errors import InvalidValue
from lrt.models import Sampling, sampling_facts
from lrt.models.sampling import gumbel, uniform

SEEDS = torch.tensor([5, 9, 2**47 + 3])
KEYS = [0, 1, 2, 2**47, -1, -(2**63)]  # of few bits, neighbours, and the ends of the integers


def test_draws_do_not_change() -> None:
    # texts are stored: other numbers need another SAMPLER
    drawn = uniform(torch.tensor([0, 5]), 3, 2)
    wanted = [_splitmix_uniform(seed, 3, token) for seed in (0, 5) for token in (0, 1)]
    assert drawn.flatten().tolist() == wanted


def _splitmix_uniform(seed: int, step: int, token: int) -> float:
    """The same number by plain arithmetic on Python's integers."""

    def mixed(value: int) -> int:
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    stream = mixed((mixed(seed) + step) % 2**64)
    bits = mixed((stream + (token + 1) * 0x9E3779B97F4A7C15) % 2**64)
    return ((bits >> 12) + 0.5) / 2**52


@pytest.mark.parametrize("along", ["seeds", "steps", "tokens"])
def test_numbers_are_uniform_along_seeds_steps_and_tokens(along: str) -> None:
    count = 20_000
    few = torch.tensor(KEYS)
    drawn = {
        "seeds": lambda: uniform(torch.arange(count), 0, 2).T,
        "steps": lambda: torch.cat([uniform(few, step, 1) for step in range(count // 20)], dim=1),
        "tokens": lambda: uniform(few, 0, count),
    }[along]()
    assert ((drawn > 0) & (drawn < 1)).all()
    for series in drawn.numpy():
        assert stats.kstest(series, "uniform").pvalue > 1e-4
        pairs, _, _ = np.histogram2d(series[:-1], series[1:], bins=5, range=[[0, 1], [0, 1]])
        assert stats.chisquare(pairs.flatten()).pvalue > 1e-4  # neighbours are independent


def test_streams_of_other_seeds_and_steps_are_independent() -> None:
    streams = torch.cat([uniform(torch.tensor(KEYS), step, 4000) for step in (0, 1, 2)])
    correlations = np.corrcoef(streams.numpy()) - np.eye(len(streams))
    assert np.abs(correlations).max() < 5 / 4000**0.5


def test_noise_is_standard_gumbel_whose_largest_values_differ() -> None:
    noise = gumbel(torch.arange(4), 0, 50_000)
    assert noise.dtype == torch.float32
    assert stats.kstest(noise.flatten().numpy(), "gumbel_r").pvalue > 1e-3
    largest = noise.topk(50, dim=1).values
    assert (largest[:, :-1] > largest[:, 1:]).all()


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_a_token_is_drawn_from_the_softmax(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, -3.0])
    items = 20_000
    draws = Sampling(temperature, tuple(range(items))).draws(torch.arange(items))
    tokens = draws.tokens(logits.expand(items, -1), 3)
    counts = torch.bincount(tokens, minlength=5).numpy()
    wanted = items * (logits.double() / temperature).softmax(0).numpy()
    assert stats.chisquare(counts, wanted).pvalue > 1e-3


def test_an_items_draws_are_common_to_its_rows_and_the_same_in_any_batch() -> None:
    sampling = Sampling(1.0, (5, 9, 2**47 + 3))
    rows = torch.tensor([2, 0, 0, 1, 2])
    logits = torch.zeros(5, 1000)
    whole = [sampling.draws(rows).tokens(logits, step) for step in range(8)]
    for step, tokens in enumerate(whole):
        assert tokens[1] == tokens[2]
        assert tokens[0] == tokens[4]
        for part in (slice(0, 1), slice(1, 4), slice(3, 5)):
            alone = sampling.draws(rows[part]).tokens(logits[part], step)
            assert torch.equal(alone, tokens[part])
    assert len({tuple(tokens.tolist()) for tokens in whole}) == 8
    # other items beside it, in another order, change nothing
    other = Sampling(1.0, (7, 5)).draws(torch.tensor([1])).tokens(logits[:1], 0)
    assert other[0] == whole[0][1]


def test_noise_is_computed_where_the_logits_are_and_once_an_item() -> None:
    draws = Sampling(1.0, (5, 9)).draws(torch.tensor([0, 1] * 50))
    assert len(draws.seeds) == 2
    assert draws.tokens(torch.zeros(100, 30, device="meta"), 0).device.type == "meta"


def test_facts_tell_samplers_apart_where_texts_are_sampled() -> None:
    assert sampling_facts(0.0) == {"temperature": 0.0}
    assert sampling_facts(0.5) == {"temperature": 0.5, "sampler": 2}


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_above_zero(temperature: float) -> None:
    with pytest.raises(InvalidValue):
        Sampling(temperature, (1,))
