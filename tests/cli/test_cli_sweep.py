"""`train.py -m`: one failure does not stop the others, and everything of it is on record."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from lrt.runtime.sweep import SweepReport, _row, main, report
from omegaconf import OmegaConf
from running import ROOT, Ran, Workshop, run_apart, run_here

SMALL = ("corpus.tokens.train=4096", "suite.names=[bravery]", "evaluation.during_training.behaviours=[]")


@dataclass(frozen=True)
class Sweep:
    workshop: Workshop
    folder: Path
    ran: Ran

    @property
    def rows(self) -> list[dict[str, Any]]:
        found = [json.loads(file.read_text()) for file in self.folder.glob("*/job.json")]
        return sorted(found, key=lambda row: int(row["job"]))


@pytest.fixture(scope="module")
def sweep(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    workshop = Workshop(pair_folder, tmp_path_factory.mktemp("sweep"))
    folder = workshop.folder / "jobs"
    settings = workshop.settings(*SMALL, f"hydra.sweep.dir={folder}", logging="offline")
    settings = [s for s in settings if not s.startswith(("layers.source=", "hydra.run.dir="))]
    ran = run_apart("train", "-m", *settings, "layers.source=9,1", "map.kind=full,orthogonal")
    return Sweep(workshop, folder, ran)


def test_the_others_ran_and_the_exit_code_tells(sweep: Sweep) -> None:
    assert sweep.ran.code != 0
    assert [row["status"] for row in sweep.rows] == ["failed", "failed", "ok", "ok"]


def test_a_failed_jobs_row_has_its_error(sweep: Sweep) -> None:
    failed, _, good, _ = sweep.rows
    assert "layers.source=9 is not a layer; little has 3 blocks" in failed["error"]
    assert failed["error"].startswith("ValueError: ")
    assert failed["source_layer"] == 9
    assert "layers.source=9" in failed["overrides"]
    assert good["error"] is None
    assert (good["source_layer"], good["target_layer"]) == (1, 2)
    assert 0 < good["fvu"] < 2
    assert good["seconds"] > 0


def test_a_mistake_shows_no_traceback(sweep: Sweep) -> None:
    assert "Traceback" not in sweep.ran.told
    assert "error: layers.source=9 is not a layer" in sweep.ran.line


def test_report_is_written_though_a_job_failed(sweep: Sweep) -> None:
    assert "2 of 4 jobs finished" in (sweep.folder / "sweep.md").read_text()
    assert len(json.loads((sweep.folder / "sweep.json").read_text())) == 4
    assert "layers.source=9" in (sweep.folder / "sweep.html").read_text()


def test_states_are_recorded_once_for_both_maps(sweep: Sweep) -> None:
    artifacts = sweep.workshop.artifacts
    assert len(list(artifacts.glob("activations/*/manifest.json"))) == 1
    assert len(list(artifacts.glob("maps/*/mapping.json"))) == 2


def test_one_wandb_run_a_job_all_in_one_group(sweep: Sweep) -> None:
    groups = []
    for job in (2, 3):
        (run,) = (sweep.folder / str(job) / "wandb").glob("offline-run-*")
        inspected = subprocess.run(
            [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(run)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        records = [json.loads(line) for line in inspected.stdout.splitlines()]
        groups += [found for record in records for found in _values(record, "run_group", "runGroup")]
    assert len(groups) >= 2
    assert set(groups) == {str(sweep.folder)}


def _values(node: Any, *keys: str) -> list[Any]:
    """Every value under one of these keys, however deep."""
    if isinstance(node, list):
        return [found for each in node for found in _values(each, *keys)]
    if not isinstance(node, dict):
        return []
    mine = [value for key, value in node.items() if key in keys]
    return mine + [found for value in node.values() for found in _values(value, *keys)]


def test_more_devices_within_a_multirun_are_refused(workshop: Workshop) -> None:
    folder = workshop.folder / "jobs"
    ran = run_here("train", "-m", *workshop.settings("trainer=ddp_cpu", f"hydra.sweep.dir={folder}"))
    assert ran.code != 0
    assert "trainer.devices=2 within a multirun" in ran.line
    assert "trainer.devices=1" in ran.line
    assert not workshop.files("activations")


def row(folder: Path, job: int, **more: Any) -> None:
    (folder / str(job)).mkdir(parents=True)
    base = {"pair": "small -> medium", "source_layer": job, "target_layer": 2, "status": "ok", "error": None}
    (folder / str(job) / "job.json").write_text(json.dumps({"job": job, **base, "fvu": 0.5, **more}))


def test_rows_are_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    for job in (0, 2, 10):
        row(tmp_path, job)
    report(tmp_path.glob("*/job.json"), tmp_path)
    assert [r["job"] for r in json.loads((tmp_path / "sweep.json").read_text())] == [0, 2, 10]


def test_rows_of_an_earlier_sweep_in_the_folder_are_gone(tmp_path: Path) -> None:
    row(tmp_path, 7)
    SweepReport().on_multirun_start(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert not list(tmp_path.glob("*/job.json"))


@pytest.mark.parametrize("layer", [None, "middle", [0, 1], 0.5])
def test_a_job_that_failed_on_its_layers_has_a_row_too(layer: Any) -> None:
    config = OmegaConf.create(
        {"pair": {"name": "a -> b"}, "layers": {"source": layer, "target": [3]}, "hydra": {}}
    )
    job = JobReturn(overrides=["layers.source=null"], status=JobStatus.FAILED, _return_value=ValueError("no"))
    found = _row(config, job, 0)
    assert (found["status"], found["error"]) == ("failed", "ValueError: no")
    assert found["source_layer"] == ("0+1" if layer == [0, 1] else layer)
    assert found["target_layer"] == 3


@pytest.mark.slow
def test_make_sweeps_own_lines_run_in_micro(tmp_path: Path) -> None:
    recipe = re.search(r"^sweep:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    script = recipe[1].replace("$(PY)", sys.executable).replace("$$", "$").replace("\n\t", "\n")
    micro = (
        "corpus.tokens.train=8192 corpus.tokens.validation=2048 corpus.tokens.test=2048 "
        "suite.contrast_pairs=8 suite.development=4 fit.epochs=1 batches.rows=64 evaluation.random_draws=2 "
        f"evaluation.shuffled_draws=1 evaluation.folds=2 paths.artifacts={tmp_path}/artifacts"
    )
    script = script.replace("experiment=sweep", f"experiment=sweep {micro}")
    script = script.replace("multirun/make", str(tmp_path / "multirun")).replace(
        " report ", f" {tmp_path}/report "
    )
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "report" / "sweep.json").read_text())
    assert [r["status"] for r in rows] == ["ok"] * 12
    assert len({(r["source_layer"], r["target_layer"]) for r in rows if "tiny" not in r["pair"]}) >= 9
    assert {r["split"] for r in rows} == {"development"}
    # one store for all layers, and one for each pair of sizes
    assert len(list((tmp_path / "artifacts" / "activations").iterdir())) == 4
    assert (tmp_path / "report" / "sweep.html").is_file()


def test_several_sweeps_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row(tmp_path / "layers", 0)
    row(tmp_path / "sizes", 0, pair="tiny -> medium")
    main(str(tmp_path), str(tmp_path / "report"))
    rows = json.loads((tmp_path / "report" / "sweep.json").read_text())
    assert [r["pair"] for r in rows] == ["small -> medium", "tiny -> medium"]
    assert "sweep.html" in capsys.readouterr().err


def test_no_sweep_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no sweep in .*; run train\.py -m first"):
        main(str(tmp_path), str(tmp_path / "report"))
