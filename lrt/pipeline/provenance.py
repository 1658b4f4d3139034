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
FOLDER = Path(__file__).parent
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
        described = _git("describe", "--always", "--abbrev=12").strip()
        # of submodules git would run the status, by their own configuration
        status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        changed = _git("--no-optional-locks", *status, **_no_filters())
    except (OSError, subprocess.SubprocessError):
        return None
    return (f"{described}-dirty" if changed else described) or None


def _no_filters() -> dict[str, str]:
    """Variables that turn off the programs which the repository's configuration has git run on files."""
    listed = _git("config", "--list", "--name-only", "-z").split("\0")
    filters = {name.rpartition(".")[0] for name in listed if name.startswith("filter.")}
    off = {"clean": "", "process": "", "required": "false"}
    settings = [(f"{name}.{key}", value) for name in sorted(filters) for key, value in off.items()]
    variables = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def _git(*words: str, **environment: str) -> str:
    return subprocess.run(
        [*GIT, *words],
        cwd=FOLDER,
        env=GIT_ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    ).stdout
