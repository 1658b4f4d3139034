"""`train.py -m`: one failure does not stop the others, and every job is on record."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from running import ROOT, Ran, Workshop, run_here
from typer.testing import CliRunner

from lrt.cli.app import app
from lrt.cli.sweep import SweepReport, report, run

SMALL = ("corpus.tokens.train=4096", "suite.names=[bravery]", "evaluation.during_training.behaviours=[]")


@dataclass(frozen=True)
class Sweep:
    workshop: Workshop
    folder: Path
    ran: Ran

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows = [json.loads(file.read_text()) for file in self.folder.glob("*/job.json")]
        return sorted(rows, key=lambda row: int(row["job"]))


@pytest.fixture(scope="module")
def sweep(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    workshop = Workshop(pair_folder, tmp_path_factory.mktemp("sweep"))
    folder = workshop.folder / "jobs"
    settings = workshop.settings(*SMALL, f"hydra.sweep.dir={folder}", "fit=closed_form", logging="offline")
    settings = [s for s in settings if not s.startswith(("layers.source=", "hydra.run.dir="))]
    ran = run_here("train", "-m", *settings, "layers.source=9,1", "fit.solver=optimum,mean_only")
    return Sweep(workshop, folder, ran)


def test_the_other_jobs_run_and_the_exit_code_says_that_one_failed(sweep: Sweep) -> None:
    assert sweep.ran.code != 0
    assert [row["status"] for row in sweep.rows] == ["failed", "failed", "ok", "ok"]


def test_a_failed_job_is_recorded_with_its_error_and_without_a_traceback(sweep: Sweep) -> None:
    failed, _, good, _ = sweep.rows
    assert "layers.source=9" in failed["error"]
    assert failed["source_layer"] == 9
    assert "layers.source=9" in failed["overrides"]
    assert good["error"] is None
    assert "Traceback" not in sweep.ran.output
    assert "layers.source=9" in sweep.ran.line


def test_a_finished_job_is_recorded_with_its_outcome(sweep: Sweep) -> None:
    good = sweep.rows[2]
    outcome = json.loads((sweep.folder / "2" / "outcome.json").read_text())
    assert good["fvu"] == outcome["fvu"] > 0
    assert (good["source_layer"], good["target_layer"]) == (1, 2)
    assert good["seconds"] > 0


def test_the_page_is_written_though_jobs_failed(sweep: Sweep) -> None:
    assert len(json.loads((sweep.folder / "sweep.json").read_text())) == 4
    assert "layers.source=9" in (sweep.folder / "sweep.html").read_text()
    assert (sweep.folder / "sweep.md").is_file()


def test_states_are_recorded_once_for_both_maps(sweep: Sweep) -> None:
    artifacts = sweep.workshop.artifacts
    assert len(list(artifacts.glob("activations/*/manifest.json"))) == 1
    assert len(list(artifacts.glob("maps/*/mapping.json"))) == 2


def test_each_job_has_a_wandb_run_of_its_own(sweep: Sweep) -> None:
    runs = [[*(sweep.folder / str(job) / "wandb").glob("offline-run-*")] for job in (2, 3)]
    assert [len(each) for each in runs] == [1, 1]


def row(folder: Path, job: int, **more: Any) -> None:
    (folder / str(job)).mkdir(parents=True)
    base = {"pair": "small -> medium", "source_layer": job, "target_layer": 2, "status": "ok", "error": None}
    (folder / str(job) / "job.json").write_text(json.dumps({"job": job, **base, "fvu": 0.5, **more}))


def test_rows_are_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    for job in (0, 2, 10):
        row(tmp_path, job)
    report(tmp_path.glob("*/job.json"), tmp_path)
    assert [r["job"] for r in json.loads((tmp_path / "sweep.json").read_text())] == [0, 2, 10]


def config_of(folder: Path, layer: Any = 1) -> Any:
    hydra = {
        "sweep": {"dir": str(folder)},
        "job": {"num": 3},
        "runtime": {"output_dir": str(folder / "3")},
    }
    layers = {"source": layer, "target": [3]}
    return OmegaConf.create({"pair": {"name": "a -> b", "reverse": True}, "layers": layers, "hydra": hydra})


def ended(folder: Path, config: Any, job: JobReturn) -> dict[str, Any]:
    callback = SweepReport()
    callback.on_multirun_start(config)
    (folder / "3").mkdir(exist_ok=True)
    callback.on_job_end(config, job)
    row: dict[str, Any] = json.loads((folder / "3" / "job.json").read_text())
    return row


def test_rows_of_an_earlier_sweep_in_the_folder_are_removed(tmp_path: Path) -> None:
    row(tmp_path, 7)
    ended(tmp_path, config_of(tmp_path), JobReturn(overrides=[], status=JobStatus.COMPLETED))
    assert [r["job"] for r in json.loads((tmp_path / "sweep.json").read_text())] == [3]


def test_sweeps_in_folders_below_are_left_alone(tmp_path: Path) -> None:
    inner = tmp_path / "one"
    row(inner / "nested", 0)
    report(inner.rglob("job.json"), inner)
    ended(tmp_path, config_of(tmp_path), JobReturn(overrides=[], status=JobStatus.COMPLETED))
    assert (inner / "nested" / "0" / "job.json").is_file()
    assert [r["job"] for r in json.loads((tmp_path / "sweep.json").read_text())] == [3]
    SweepReport().on_multirun_start(config_of(inner))
    assert not (inner / "nested" / "0" / "job.json").exists()


@pytest.mark.parametrize("layer", [None, "middle", [0, 1], 0.5])
def test_a_job_that_failed_on_its_layers_has_a_row_too(layer: Any, tmp_path: Path) -> None:
    failed = JobReturn(overrides=["a=1"], status=JobStatus.FAILED, _return_value=ValueError("no"))
    row = ended(tmp_path, config_of(tmp_path, layer), failed)
    assert (row["status"], row["error"]) == ("failed", "ValueError: no")
    assert row["source_layer"] == ("0+1" if layer == [0, 1] else layer)
    assert (row["target_layer"], row["pair"]) == (3, "a -> b, reversed")


def test_a_row_shows_no_value_of_an_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRT_SECRET", "hunter2")
    config = config_of(tmp_path)
    config.pair.name = "${oc.env:LRT_SECRET}"
    failed = JobReturn(overrides=[], status=JobStatus.FAILED, _return_value=ValueError("no model hunter2"))
    row = ended(tmp_path, config, failed)
    assert row["pair"] == "${oc.env:LRT_SECRET}, reversed"
    assert "hunter2" not in json.dumps(row)


def test_a_job_of_unknown_status_has_failed(tmp_path: Path) -> None:
    row = ended(
        tmp_path,
        config_of(tmp_path),
        JobReturn(overrides=[], status=JobStatus.FAILED, _return_value=KeyError("x")),
    )
    assert row["error"].startswith("KeyError")


def test_a_single_run_writes_nothing(tmp_path: Path) -> None:
    SweepReport().on_job_end(config_of(tmp_path), JobReturn())
    assert list(tmp_path.iterdir()) == []


def test_several_sweeps_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row(tmp_path / "layers", 0)
    row(tmp_path / "sizes", 0, pair="tiny -> medium")
    assert run(tmp_path, tmp_path / "report") == 0
    rows = json.loads((tmp_path / "report" / "sweep.json").read_text())
    assert [r["pair"] for r in rows] == ["small -> medium", "tiny -> medium"]
    assert "sweep.html" in capsys.readouterr().err
    assert CliRunner().invoke(app, ["sweep-report", str(tmp_path), str(tmp_path / "again")]).exit_code == 0


def test_without_a_sweep_the_message_says_what_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, tmp_path / "report") == 1
    assert "train.py -m" in capsys.readouterr().err


@pytest.mark.slow
def test_make_sweeps_own_lines_run_in_micro(tmp_path: Path) -> None:
    recipe = re.search(r"^sweep:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    bin_of = str(Path(sys.executable).parent)
    script = recipe[1].replace("$(PY)", sys.executable).replace("$(VENV)/bin", bin_of)
    script = script.replace("$$", "$").replace("\n\t", "\n")
    micro = (
        "corpus.tokens.train=8192 corpus.tokens.validation=2048 corpus.tokens.test=2048 "
        "suite.contrast_pairs=8 suite.development=4 fit.epochs=1 batches.rows=64 evaluation.random_draws=2 "
        f"evaluation.shuffled_draws=1 evaluation.folds=2 paths.artifacts={tmp_path}/artifacts"
    )
    script = script.replace("experiment=sweep", f"experiment=sweep {micro}")
    script = script.replace("multirun/make", str(tmp_path / "multirun"))
    script = script.replace(" report ", f" {tmp_path}/report ")
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "report" / "sweep.json").read_text())
    assert [r["status"] for r in rows] == ["ok"] * 12
    assert len({(r["source_layer"], r["target_layer"]) for r in rows if "tiny" not in r["pair"]}) >= 9
    assert {r["split"] for r in rows} == {"development"}
    # one store for all layers, and one for each pair of sizes
    assert len(list((tmp_path / "artifacts" / "activations").iterdir())) == 4
    assert (tmp_path / "report" / "sweep.html").is_file()
