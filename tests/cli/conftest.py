"""One run of train.py with the evaluation and everything that a user may add to it."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from running import Ran, Workshop, run_main

from lrt.cli.train import main
from lrt.storage.locks import locked

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
    """Made by the first of the workers that needs it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = shared / "whole_run.pickle"
    with locked(shared / "whole_run.lock", "making the whole run"):
        if not made.is_file():
            made.write_bytes(pickle.dumps(make_whole_run(Workshop(pair_folder, shared / "whole_run"))))
        whole_run: WholeRun = pickle.loads(made.read_bytes())
    return whole_run


def make_whole_run(workshop: Workshop) -> WholeRun:
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
