"""One run of train.py with the evaluation and everything that a user may add to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from running import Ran, Workshop, run_main

from lrt.cli.train import main

MORE = (
    "evaluate=true",
    "tags=[first,second]",
    "optimized_metric=fvu",
    "+callbacks.LearningRateMonitor={logging_interval: step}",
    "logging.project=tried",
)


@dataclass(frozen=True)
class WholeRun:
    """What is left of it. Not to be written to."""

    workshop: Workshop
    ran: Ran
    returned: Any

    @property
    def folder(self) -> Path:
        return self.workshop.folder / "run"


@pytest.fixture(scope="session")
def whole_run(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    workshop = Workshop(pair_folder, tmp_path_factory.mktemp("whole"))
    returned: list[Any] = []

    def keeping(config: DictConfig) -> Any:
        returned.append(main(config))
        return returned[0]

    ran = run_main(keeping, "train", *workshop.settings(*MORE, logging="offline"))
    assert ran.code == 0, ran.output
    return WholeRun(workshop, ran, returned[0])


@pytest.fixture(autouse=True)
def _no_debugger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra raises a job's exception instead of printing it where something traces, as coverage does."""
    monkeypatch.setattr("hydra._internal.utils.is_under_debugger", lambda: False)
