"""A tiny pair on disk that shares the storybook tokenizer, and one micro run of it for all tests."""

from pathlib import Path
from typing import Any

import pytest
from running import MicroRun, Workshop, run_apart
from storybook_models import tiny_llama

from lrt.lab.shipped import folder_of


@pytest.fixture(scope="session")
def pair_folder(family_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    for name, width, depth, seed in (("little", 32, 3, 0), ("big", 48, 4, 1)):
        lm = tiny_llama(family_tokenizer, width, depth, seed)
        assert lm.model.num_parameters() < 200_000  # a misspelt setting would make a full llama
        lm.model.save_pretrained(folder / name)
        family_tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def workshop(pair_folder: Path, tmp_path: Path) -> Workshop:
    return Workshop(pair_folder, tmp_path)


@pytest.fixture
def trained(tmp_path: Path) -> Workshop:
    """A workshop whose pair was trained: tiny as little, small as big. The other's are random, and no map
    explains one by the other."""
    pair = tmp_path / "pair"
    pair.mkdir()
    for name, member in (("little", "tiny"), ("big", "small")):
        (pair / name).symlink_to(folder_of(member))
    return Workshop(pair, tmp_path)


@pytest.fixture(scope="session")
def micro_run(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MicroRun:
    workshop = Workshop(pair_folder, tmp_path_factory.mktemp("micro"))
    train = run_apart("train", *workshop.settings(run="train", logging="offline"))
    assert train.code == 0, train.told
    evaluate = workshop.evaluate(run="evaluate", logging="offline")
    assert evaluate.code == 0, evaluate.told
    return MicroRun(workshop, train, evaluate)
