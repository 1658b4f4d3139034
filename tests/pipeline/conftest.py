"""Stages on tiny models: recorded once a session, and copies that a test may change."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from stages import SCALE, Stages, corpus, small_suite
from storybook_models import image_of, semi_orthogonal

from lrt.config import Layers, PairSettings
from lrt.evaluation import Behaviour
from lrt.models import LanguageModel, ModelSpec
from lrt.models.chat_template import ChatTemplate
from lrt.pipeline import ModelPair, PairModel, UntrainedSource, load_pair


@pytest.fixture(scope="session")
def tiny_pair(pair_folder: Path) -> ModelPair:
    """Two untrained llamas of 3 blocks of 32 and 4 blocks of 48."""
    source, target = (ModelSpec(path=str(pair_folder / name)) for name in ("little", "big"))
    return load_pair(PairSettings("tiny", source, target), pair_folder / "cache")


@pytest.fixture(scope="session")
def untrained(pair_folder: Path) -> UntrainedSource:
    return UntrainedSource(ModelSpec(path=str(pair_folder / "little")), 5, pair_folder / "cache")


@pytest.fixture(scope="session")
def tiny_suite() -> tuple[Behaviour, ...]:
    return small_suite()


@pytest.fixture(scope="session")
def shared(
    tiny_pair: ModelPair, tiny_suite: tuple[Behaviour, ...], tmp_path_factory: pytest.TempPathFactory
) -> Stages:
    """All layers of both models recorded. Tests may add artifacts, and must not change any."""
    stages = Stages(tiny_pair, tiny_suite, tmp_path_factory.mktemp("shared"))
    stages.states.record()
    _ = stages.excluded.ids
    return stages


@pytest.fixture
def copied(shared: Stages, tmp_path: Path) -> Stages:
    """The same with the recorded states alone, in a folder of its own."""
    for kind in ("activations", "corpora", "shared_documents"):
        shutil.copytree(shared.folder / kind, tmp_path / "artifacts" / kind)
    return shared.but(folder=tmp_path / "artifacts")


@pytest.fixture
def empty(shared: Stages, tmp_path: Path) -> Stages:
    """The same settings where nothing was made yet."""
    return shared.but(folder=tmp_path / "artifacts")


@pytest.fixture(scope="session")
def oracle(
    story_lm: LanguageModel, tiny_suite: tuple[Behaviour, ...], tmp_path_factory: pytest.TempPathFactory
) -> Stages:
    """A target whose states are `SCALE Q h` wherever the source's are `h`: transfer must be exact."""
    image = image_of(story_lm, semi_orthogonal(48, 32), SCALE)
    identities = {
        "source": {"model": "tiny", "dtype": "float32"},
        "target": {"model": "its image", "dtype": "float32"},
        "tokenizer": "storybook",
    }
    models = {"source": PairModel.of(story_lm), "target": PairModel.of(image)}
    pair = ModelPair("oracle", models, ChatTemplate.of(story_lm.tokenizer), identities)
    greedy = replace(Stages(pair, tiny_suite, Path()).evaluation, temperature=0.0)
    return Stages(
        pair,
        tiny_suite,
        tmp_path_factory.mktemp("oracle"),
        Layers(1, 1),
        corpus(train=8192),
        pool=1,
        evaluation=greedy,
    )
