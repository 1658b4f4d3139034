"""Fit a map: two models and a corpus in, an affine map between their hidden states out.

python train.py                                  # the storybook pair
python train.py layers.source=1 layers.target=2 map=low_rank map.rank=16
python train.py -m layers.source=1,2,3 layers.target=1,2,3 experiment=sweep

The method is lrt/cli/train.py, step by step.
"""

import sys

from lrt.cli.command import command
from lrt.cli.train import main

if __name__ == "__main__":
    sys.exit(command(main, "train"))
