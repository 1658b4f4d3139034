"""The storybook family's tokenizer and a tiny untrained model that reads it."""

import signal
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from running import MicroRun, Workshop
from storybook_models import tiny_llama
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lrt.lab.shipped import WEIGHTS, folder_of
from lrt.models import LanguageModel

# two workers on two cores: with more threads each they slow one another several times over
torch.set_num_threads(1)
# no test fails because the machine is busy
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# a shell that starts the tests in the background has them ignore Ctrl-C, which some tests send
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# what takes longest starts first, so that no worker is left with it when the other has ended
LONGEST = (
    "test_cli_bad_input.py",
    "test_readme.py",
    "test_cli_train.py",
    "test_pipeline_commands.py",
    "test_pipeline_maps.py",
    "test_config_shipped.py",
    "test_storage_checkpoints.py",
    "test_package.py",
    "test_mapping_module.py",
    "test_cli_record.py",
    "test_cli_atlas.py",
)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """The order in which `make test` hands the files to its workers."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def family_tokenizer() -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast.from_pretrained(WEIGHTS / "tokenizer")


@pytest.fixture(scope="session")
def story_lm(family_tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """Width 32, 3 blocks, float32: untrained, but what it says depends on all that it reads."""
    return tiny_llama(family_tokenizer)


@pytest.fixture(scope="session")
def classifier_folder(
    family_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny untrained text classifier with the labels ANSWER and REFUSAL."""
    made = tmp_path_factory.mktemp("classifier")
    config = BertConfig(
        vocab_size=len(family_tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        initializer_range=0.5,
        pad_token_id=family_tokenizer.pad_token_id,
        id2label={0: "ANSWER", 1: "REFUSAL"},
        label2id={"ANSWER": 0, "REFUSAL": 1},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
    assert model.num_parameters() < 60_000
    model.save_pretrained(made)
    family_tokenizer.save_pretrained(made)
    return made


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
    train = workshop.train(run="train", logging="offline")
    assert train.code == 0, train.output
    evaluate = workshop.evaluate(run="evaluate", logging="offline")
    assert evaluate.code == 0, evaluate.output
    return MicroRun(workshop, train, evaluate)
