"""The oracle pair, texts for it, and its map."""

import itertools

import pytest
from oracle_pair import GRID_SETTINGS, LAYER, Oracle, one_block_later

from lrt.api import FittedMap, MapGrid, fit_map
from lrt.lab.grammar import Plan, pages
from lrt.models import LanguageModel


@pytest.fixture(scope="session")
def oracle(story_lm: LanguageModel) -> Oracle:
    return Oracle.of(story_lm)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [page.text for page in itertools.islice(pages(31, "held_out"), 400)]


@pytest.fixture(scope="session")
def prompts() -> tuple[list[str], list[str]]:
    """French and English stories."""
    french, english = Plan("story", language="french"), Plan("story", language="english")
    first, second = (
        [page.text for page in itertools.islice(pages(32, "held_out", plan), 24)]
        for plan in (french, english)
    )
    return first, second


@pytest.fixture(scope="session")
def fitted(oracle: Oracle, texts: list[str]) -> FittedMap:
    return fit_map(oracle.source, oracle.target, texts, layers=(LAYER, LAYER), pool=4)


@pytest.fixture(scope="session")
def later(oracle: Oracle) -> LanguageModel:
    return one_block_later(oracle.target)


@pytest.fixture(scope="session")
def grid(oracle: Oracle, later: LanguageModel, texts: list[str]) -> MapGrid:
    fitted = fit_map(oracle.source, later, texts, layers=("auto", "auto"), **GRID_SETTINGS)
    assert isinstance(fitted, MapGrid)
    return fitted
