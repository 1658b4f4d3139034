"""train.py and evaluate.py as a user runs them, in this process (quick) or in one of their own."""

import contextlib
import importlib.util
import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from lrt.cli.command import command
from lrt.cli.composing import compose_config
from lrt.storage.locks import LOCK

ROOT = Path(__file__).parents[1]
# tests/pipeline/test_pipeline_analyses.py asks for them
NO_ANALYSIS = [
    "analysis.rank_curve=false",
    "analysis.atlas=false",
    "analysis.many_to_one=false",
    "analysis.fidelity_tokens=0",
    "analysis.sae.features=0",
    "analysis.price.counts=[]",
]
# all vectors transferred with the map of the whole corpus
ONE_MAP = [f"corpus.sources.{part}.fit_map_for=[]" for part in ("stories", "requests", "questions")]


@dataclass(frozen=True)
class Ran:
    """What a user sees of a run."""

    code: int
    output: str  # stderr and stdout

    @property
    def line(self) -> str:
        """All on one line, so that a phrase is found wherever it was broken."""
        return " ".join(self.output.split())


def program(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{name}_program", ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_here(name: str, *overrides: str) -> Ran:
    """`python NAME.py OVERRIDES` through its real entry point, without the start of a process."""
    return run_main(program(name).main, name, *overrides)


def run_main(
    main: Callable[[DictConfig], Any], name: str, *overrides: str, beside: Path | None = None
) -> Ran:
    """The same of any command: its `main`, the name of its config, and a folder of further configs."""
    stream = io.StringIO()
    with (
        _undone(),
        contextlib.redirect_stderr(stream),
        contextlib.redirect_stdout(stream),
        mock.patch.object(sys, "argv", [f"{name}.py", *overrides]),
    ):
        try:
            code = command(main, name, beside)
        except SystemExit as left:
            code = int(left.code or 0)
    return Ran(code, stream.getvalue())


def run_apart(name: str, *overrides: str, timeout: float = 300, **environment: str) -> Ran:
    """`python NAME.py OVERRIDES` in a process of its own."""
    return _run([str(ROOT / f"{name}.py"), *overrides], timeout, environment)


def run_module(name: str, *overrides: str, timeout: float = 300, **environment: str) -> Ran:
    """`python -m NAME OVERRIDES` in a process of its own."""
    return _run(["-m", name, *overrides], timeout, environment)


def _run(words: list[str], timeout: float, environment: dict[str, str]) -> Ran:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Ran(done.returncode, done.stderr + done.stdout)


def composed(name: str, *overrides: str, output: str = "nowhere") -> DictConfig:
    """What Hydra hands to `main`, with its own config set as in a run."""
    return compose_config(name, *overrides, f"hydra.run.dir={output}")


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
            *NO_ANALYSIS,
            # another corpus has no such parts
            *(() if any(word.startswith("corpus=") for word in more) else ONE_MAP),
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
        return {path: path.stat().st_mtime_ns for path in found if path.is_file() and path.name != LOCK}

    def one(self, pattern: str) -> Path:
        (found,) = self.artifacts.glob(pattern)
        return found


@dataclass(frozen=True)
class MicroRun:
    """`train.py` and then `evaluate.py`, once each with W&B offline. Not to be written to."""

    workshop: Workshop
    train: Ran
    evaluate: Ran


@contextlib.contextmanager
def _undone() -> Iterator[None]:
    """Takes back what a run leaves behind in its process: loggers, seeds in the environment, Hydra."""
    loggers = [logging.getLogger(name) for name in ("lrt", "lightning.pytorch")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    GlobalHydra.instance().clear()
    try:
        with mock.patch.dict(os.environ), warnings.catch_warnings():
            yield
    finally:
        GlobalHydra.instance().clear()
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.level, logger.propagate = handlers, level, propagate
            logger.setLevel(level)
