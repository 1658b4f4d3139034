"""Transfer steering vectors across a fitted map and measure what they do: native, transferred, nulls.

    python evaluate.py            # with the same settings that train.py was given

Writes report/index.html, report/results.json and report/report.md. The method is lrt/cli/train.py, step by
step.
"""

import sys

from lrt.cli.command import command
from lrt.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(command(main, "evaluate"))
