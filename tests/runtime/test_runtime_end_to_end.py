"""The two commands on a tiny pair: what they leave, that they reuse it, and that they go on after a stop."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_types import MicroRun, Workshop

from lrt.mapping import FitHistory, load_map
from lrt.runtime.pipeline import Pipeline
from lrt.steering import SteeringVector

pytestmark = pytest.mark.xdist_group("micro")
