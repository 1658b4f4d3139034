"""A tiny pair on disk that shares the storybook tokenizer, and one micro run of it for all tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running import Ran, run_apart, run_here
from storybook_models import tiny_llama


@dataclass(frozen=True)
class Workshop:
    """A folder of outputs, and the overrides that lead all of a run's there."""

    pair: Path
    folder: Path

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def report(self) -> Path:
        return self.folder / "report"

    def settings(self, *more: str, run: str = "run", logging: str = "disabled") -> list[str]:
        return [
            "experiment=micro",
            "pair=own",
            f"pair.source.path={self.pair / 'little'}",
            f"pair.target.path={self.pair / 'big'}",
            "layers.source=1",
            "layers.target=2",
            "corpus.tokens.train=8192",
            "trainer.enable_progress_bar=false",
            f"logging.mode={logging}",
            f"paths.artifacts={self.artifacts}",
            f"paths.report={self.report}",
            f"hydra.run.dir={self.folder / run}",
            *more,
        ]

    def train(self, *more: str, **how: str) -> Ran:
        return run_here("train", *self.settings(*more, **how))

    def evaluate(self, *more: str, **how: str) -> Ran:
        return run_here("evaluate", *self.settings(*more, **how))

    def files(self, kind: str) -> dict[Path, int]:
        """Modification times of all files of a kind of artifact."""
        found = (self.artifacts / kind).rglob("*")
        return {path: path.stat().st_mtime_ns for path in found if path.is_file()}

    def one(self, pattern: str) -> Path:
        (found,) = self.artifacts.glob(pattern)
        return found


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


@dataclass(frozen=True)
class MicroRun:
    """`train.py` and then `evaluate.py`, once each with W&B offline. Not to be written to."""

    workshop: Workshop
    train: Ran
    evaluate: Ran


@pytest.fixture(scope="session")
def micro_run(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MicroRun:
    workshop = Workshop(pair_folder, tmp_path_factory.mktemp("micro"))
    train = run_apart("train", *workshop.settings(run="train", logging="offline"))
    assert train.code == 0, train.told
    evaluate = workshop.evaluate(run="evaluate", logging="offline")
    assert evaluate.code == 0, evaluate.told
    return MicroRun(workshop, train, evaluate)
