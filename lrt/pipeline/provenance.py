"""Where a result came from: versions, machine, commit, command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "lightning", "hydra-core", "transformers", "datasets", "wandb", "torchmetrics")
# git that reads no configuration but the repository's, and runs nothing that this names
GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
GIT_ENVIRONMENT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.defpath}


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def provenance() -> dict[str, Any]:
    """Plain data; the commit is None outside a git checkout."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": _machine(),
        "python": platform.python_version(),
        "versions": versions(),
        "commit": _commit(),
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU"


def _commit() -> str | None:
    try:
        described = subprocess.run(
            [*GIT, "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            env=GIT_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
