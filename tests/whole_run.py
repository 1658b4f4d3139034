"""One run of train.py with the evaluation and everything that a user may add to it.

In a module of its own, by whose name both workers of the tests find its class.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def make_whole_run(workshop: Workshop) -> WholeRun:
    returned: list[Any] = []

    def keeping(config: DictConfig) -> Any:
        returned.append(main(config))
        return returned[0]

    ran = run_main(keeping, "train", *workshop.settings(*MORE, logging="offline"))
    assert ran.code == 0, ran.output
    return WholeRun(workshop, ran, returned[0])
