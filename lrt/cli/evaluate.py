"""Transfer steering vectors across fitted maps and measure what they do."""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig

from lrt.cli.command import command
from lrt.cli.train import main as method


def main(composed: DictConfig) -> Any:
    """The paper's section 3 on maps that `train.py` fitted with the same settings.

    Raises MapMissing naming the `train.py` line where one is missing.
    """
    return method(composed, fit=False)


if __name__ == "__main__":
    sys.exit(command(main, "evaluate"))
