"""The oracle pair, whose target's states are an exact linear image of the source's, and a corpus for it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from storybook_models import image_of, semi_orthogonal
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lrt.api import FittedMap, fit_map
from lrt.lab.grammar import Plan, pages
from lrt.models import LanguageModel

SCALE = 3.0
LAYER = 1
LANGUAGES = ("french", "english")

Fit = Callable[..., FittedMap]


@dataclass(frozen=True)
class Oracle:
    """A target whose states are `SCALE * q` times those of the source."""

    source: LanguageModel
    target: LanguageModel
    q: Tensor  # [d_target, d_source]


@pytest.fixture(scope="session")
def oracle(story_lm: LanguageModel) -> Oracle:
    q = semi_orthogonal(48, story_lm.width)
    return Oracle(story_lm, image_of(story_lm, q, SCALE), q)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [page.text for page in itertools.islice(pages(31, "held_out"), 600)]


@pytest.fixture(scope="session")
def prompts() -> tuple[list[str], list[str]]:
    """French and English stories."""
    french, english = (
        [page.text for page in itertools.islice(pages(32, "held_out", Plan("story", language=language)), 24)]
        for language in LANGUAGES
    )
    return french, english


@pytest.fixture(scope="session")
def fitted(oracle: Oracle, texts: list[str]) -> FittedMap:
    return fit_map(oracle.source, oracle.target, texts, layers=(LAYER, LAYER), pool=4)


@pytest.fixture(scope="session")
def other_tokenizer(family_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    import copy

    other = copy.deepcopy(family_tokenizer)
    other.add_tokens(["zyzzyva"])
    return other
