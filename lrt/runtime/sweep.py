"""A multirun's record: one row a job, failed ones too, and the table and heatmaps made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lrt.report import write_sweep_report

ROW = "job.json"


class SweepReport(Callback):
    """Writes each job's row when it ends and the sweep's page when all have; does nothing in a single run."""

    def __init__(self) -> None:
        self.multirun = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        self.multirun = True

    def on_job_end(
        self,
        config: DictConfig,
        job_return: JobReturn,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        if self.multirun:
            folder = Path(str(job_return.working_dir))
            hydra_config = job_return.hydra_cfg
            assert hydra_config is not None
            if (number := OmegaConf.select(hydra_config, "hydra.job.num")) is not None:
                folder = Path(config.hydra.sweep.dir) / str(number) if "hydra" in config else folder
            folder = Path(hydra_config.hydra.runtime.output_dir)
            row = _row(config, job_return, folder, int(hydra_config.hydra.job.num))
            (folder / ROW).write_text(json.dumps(row, indent=1))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        folder = Path(config.hydra.sweep.dir)
        report(sorted(folder.glob(f"*/{ROW}")), folder)


def _row(config: DictConfig, job: JobReturn, folder: Path, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "job": number,
        "pair": OmegaConf.select(config, "pair.name", throw_on_resolution_failure=False),
        "source_layer": config.layers.source,
        "target_layer": config.layers.target,
        "overrides": list(job.overrides or []),
        "status": "ok",
        "error": None,
    }
    if job.status != JobStatus.COMPLETED:
        # `return_value` raises what the job raised
        return row | {"status": "failed", "error": _error(job)}
    results_file = folder / "report" / "results.json"
    if results_file.is_file():
        results = json.loads(results_file.read_text())
        ratios = {b["name"]: b["ratio"] for b in results["behaviours"]}
        given = [r for r in ratios.values() if r is not None]
        row |= {
            "source_layer": results["layers"]["source"],
            "target_layer": results["layers"]["target"],
            **{k: results["map"][k] for k in ("fvu", "r2", "excess_over_optimum")},
            "ratios": ratios,
            "mean_ratio": sum(given) / len(given) if given else None,
            "seconds": sum(results["seconds"].values()),
        }
    return row


def _error(job: JobReturn) -> str:
    try:
        job.return_value  # noqa: B018
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "failed"


def report(files: list[Path], folder: Path) -> None:
    """The page of the jobs whose rows are in `files`."""
    if files:
        rows = [json.loads(file.read_text()) for file in files]
        print(f"sweep report: {write_sweep_report(rows, folder)}", file=sys.stderr)


if __name__ == "__main__":
    # python -m lrt.runtime.sweep FOLDER_OF_SWEEPS REPORT_FOLDER: several sweeps on one page
    report(sorted(Path(sys.argv[1]).glob(f"*/*/{ROW}")), Path(sys.argv[2]))
