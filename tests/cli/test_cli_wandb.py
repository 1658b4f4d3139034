"""W&B: an offline run read back with W&B's own reader, and what happens where W&B cannot be had."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import wandb
from lrt.runtime import session
from running import MicroRun, Workshop, run_apart

pytestmark = pytest.mark.xdist_group("micro")


def inspected(folder: Path, *options: str) -> str:
    """W&B's own reader of a run's transaction log."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *options, "--json", str(run)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"WANDB_ERROR_REPORTING": "false", "HOME": str(folder)},
        timeout=60,
    )
    return done.stdout


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inspected(folder, "--summary"))
    return found


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_run_holds_the_resolved_config_and_ended_well(micro_run: MicroRun, name: str) -> None:
    found = summary(micro_run.workshop.folder / name)
    assert "finished" in json.dumps(found)
    config = json.dumps(found["config"])
    assert str(micro_run.workshop.pair / "little") in config
    assert str(micro_run.workshop.artifacts) in config  # resolved, interpolations too
    assert "${" not in config


def test_scalars_of_the_fit(micro_run: MicroRun) -> None:
    records = inspected(micro_run.workshop.folder / "train")
    for key in ("train/fvu", "val/fvu", "val/excess", "behaviour/french", "trainer/global_step"):
        assert f'"{key}"' in records, key
    assert "map/fvu" in json.dumps(summary(micro_run.workshop.folder / "train"))


def test_tables_images_and_fingerprints(micro_run: MicroRun) -> None:
    folder = micro_run.workshop.folder / "evaluate"
    found = json.dumps(summary(folder)["summary"])
    results = json.loads((micro_run.workshop.report / "results.json").read_text())
    prints = results["provenance"]["fingerprints"]
    for what, value in prints.items():
        assert f"fingerprint/{what}" in found
        assert value in found
    (media,) = folder.glob("wandb/offline-run-*/files/media")
    curves = json.loads(next((media / "table").glob("strength_curves*.json")).read_text())
    assert curves["columns"] == ["behaviour", "condition", "strength", "mean", "low", "high"]
    assert {row[0] for row in curves["data"]} == {"french", "bravery"}
    headline = json.loads(next((media / "table").glob("headline*.json")).read_text())
    assert len(headline["data"]) == 2
    images = list((media / "images" / "strength").glob("*.png"))
    assert {image.name.split("_")[0] for image in images} == {"french", "bravery"}
    assert "strength_curves" in found
    assert "strength/french" in found


def test_an_offline_run_asks_for_no_account(micro_run: MicroRun) -> None:
    for ran in (micro_run.train, micro_run.evaluate):
        assert "wandb:" not in ran.told


def test_server_that_cannot_be_reached_is_told_and_left_out(workshop: Workshop) -> None:
    home = workshop.folder / "home"
    home.mkdir()
    ran = run_apart(
        "train",
        *workshop.settings("evaluate=true", "corpus.tokens.train=4096", logging="online"),
        WANDB_BASE_URL="http://127.0.0.1:9",  # nothing listens on the discard port
        WANDB_API_KEY="0" * 40,
        WANDB_INIT_TIMEOUT="5",
        HOME=str(home),
    )
    assert ran.code == 0, ran.told
    assert "W&B failed" in ran.line
    assert "the run goes on with the local record" in ran.line
    assert (workshop.folder / "run" / "csv" / "metrics.csv").read_text().count("\n") > 2
    assert list(workshop.artifacts.glob("measurements/*/french-*.jsonl"))
    assert (workshop.report / "results.json").is_file()


def test_without_a_key_it_is_written_offline(workshop: Workshop) -> None:
    home = workshop.folder / "home"
    home.mkdir()
    ran = run_apart(
        "train",
        *workshop.settings("corpus.tokens.train=4096", logging="online"),
        HOME=str(home),
        WANDB_API_KEY="",
        NETRC=str(home / "netrc"),
        WANDB_CONFIG_DIR=str(home),
    )
    assert ran.code == 0, ran.told
    assert "logging.mode=online needs a W&B key" in ran.line
    assert "map/fvu" in json.dumps(summary(workshop.folder / "run"))


def test_a_run_whose_wandb_breaks_is_whole_without_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for method in ("log", "finish"):
        monkeypatch.setattr(wandb.sdk.wandb_run.Run, method, breaks)
    monkeypatch.setattr(wandb, "finish", breaks)
    ran = workshop.train("evaluate=true", "corpus.tokens.train=4096", logging="offline")
    monkeypatch.undo()
    wandb.finish()
    assert ran.code == 0, ran.told
    assert "W&B failed (OSError: [Errno 28] No space left on device); the run goes on" in ran.line
    assert (workshop.folder / "run" / "csv" / "metrics.csv").read_text().count("\n") > 2
    assert (workshop.report / "results.json").is_file()


def test_a_server_that_stops_answering_is_not_waited_for(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(session, "ENDING", 0.2)
    monkeypatch.setattr(wandb, "finish", lambda **_: answered.wait(60))
    ran = workshop.train("corpus.tokens.train=4096")
    answered.set()
    assert ran.code == 0, ran.told
    assert "W&B did not come to an end within 0.2 s" in ran.line
    assert "wandb sync" in ran.line
