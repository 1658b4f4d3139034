"""A multirun's record: one row a job, failed ones too, and the table and heatmaps made of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lrt.cli.session import OUTCOME
from lrt.config import ConfigError
from lrt.config.published import Published
from lrt.report import layer_label, write_sweep_report
from lrt.storage.durable import write_durably
from lrt.storage.text_files import read_json

ROW, PAGE = "job.json", "sweep.json"


class SweepReport(Callback):
    """Writes each job's row and the sweep's page when the job ends; does nothing in a single run.

    After every job and not at the end alone: Hydra calls no one at the end of a sweep with a failure.
    """

    def __init__(self) -> None:
        self.multirun = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        self.multirun = True
        for left in list(_rows_in(Path(config.hydra.sweep.dir))):  # of an earlier sweep
            left.unlink()

    def on_job_end(
        self,
        config: DictConfig,
        job_return: JobReturn,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        if self.multirun:
            hydra = config.hydra
            row = _row(config, job_return, int(hydra.job.num), Path(hydra.runtime.output_dir))
            write_durably(Path(hydra.runtime.output_dir) / ROW, json.dumps(row, indent=1).encode())
            folder = Path(hydra.sweep.dir)
            report(_rows_in(folder), folder)


def _rows_in(folder: Path) -> Iterator[Path]:
    """Rows of the sweep in this folder, without those of other sweeps in folders below it."""
    for place, below, files in os.walk(folder):
        if ROW in files:
            yield Path(place, ROW)
        below[:] = [name for name in below if not Path(place, name, PAGE).is_file()]


def _row(config: DictConfig, job: JobReturn, number: int, folder: Path) -> dict[str, Any]:
    row = _unmasked_row(config, job, number, folder)
    try:
        published = Published(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    except ConfigError:  # the job's own error: nothing of such a config is shown
        return row | {"pair": None}
    return dict(published.masked(row))


def _unmasked_row(config: DictConfig, job: JobReturn, number: int, folder: Path) -> dict[str, Any]:
    name = OmegaConf.select(config, "pair.name", throw_on_resolution_failure=False)
    row: dict[str, Any] = {
        "job": number,
        "pair": f"{name}, reversed" if OmegaConf.select(config, "pair.reverse") else name,
        **{f"{side}_layer": layer_label(config.layers[side]) for side in ("source", "target")},
        "overrides": list(job.overrides or []),
        "status": "ok",
        "error": None,
    }
    if job.status == JobStatus.COMPLETED:
        outcome = folder / OUTCOME
        return row | (read_json(outcome, nan=True) if outcome.is_file() else {})
    return row | {"status": "failed", "error": _error(job)}


def _error(job: JobReturn) -> str:
    try:
        job.return_value  # noqa: B018  (raises what the job raised)
    except Exception as error:
        cause = error.__cause__ or error
        return f"{type(cause).__name__}: {error}"
    return "failed"


def report(files: Iterable[Path], folder: Path) -> Path:
    """Writes the page of the jobs whose rows are in `files` to `folder`; returns its path."""
    rows = [(file.parent.parent, read_json(file, nan=True)) for file in files]
    rows.sort(key=lambda row: (row[0], row[1]["job"]))
    return write_sweep_report([row for _, row in rows], folder, setting="hydra.sweep.dir")


def run(sweeps: Path, folder: Path) -> int:
    """Several sweeps on one page; exit code 1 where there is none."""
    files = sorted(sweeps.rglob(ROW))
    if not files:
        print(f"error: {sweeps} holds no sweep (no {ROW}); run train.py -m first", file=sys.stderr)
        return 1
    print(f"sweep report: {report(files, folder)}", file=sys.stderr)
    return 0
