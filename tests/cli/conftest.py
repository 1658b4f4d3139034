"""The whole run, made once for both workers of the tests."""

import os
import pickle
from pathlib import Path

import pytest
from running import Workshop
from whole_run import WholeRun, make_whole_run

from lrt.storage.locks import locked


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


@pytest.fixture(autouse=True)
def _no_debugger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra raises a job's exception instead of printing it where something traces, as coverage does."""
    monkeypatch.setattr("hydra._internal.utils.is_under_debugger", lambda: False)
