"""A session opens what a run needs, and closes it whatever happens."""

import json
import logging
import random
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, read_write
from running import Workshop, _undone, composed, run_main

from lrt.cli.session import Session, check_writable, link_newest, without_folder
from lrt.config import ConfigError
from lrt.report import Table


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with _undone():
        yield


def session_of(workshop: Workshop, *overrides: str, **how: Any) -> Session:
    settings = workshop.settings(*overrides, **how)
    return Session.of(composed("train", *settings, output=str(workshop.folder / "run")), steps=7)


def test_it_seeds_makes_its_folders_and_logs_to_a_csv(workshop: Workshop) -> None:
    draws = []
    for _ in range(2):
        with session_of(workshop, "seed=3") as session:
            draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
            loggers = session.tracking.loggers("part")
            assert logging.getLogger("lrt").level == logging.INFO
    assert draws[0] == draws[1]
    assert all(folder.is_dir() for folder in (workshop.artifacts, workshop.report, workshop.folder / "run"))
    assert [type(logger) for logger in loggers] == [CSVLogger]  # logging.mode=disabled
    assert loggers[0].log_dir == str(workshop.folder / "run" / "csv" / "part")


@pytest.mark.slow
def test_wandbs_run_is_open_within_and_closed_after_an_error(workshop: Workshop) -> None:
    runs: list[Any] = []

    def fail() -> None:
        with session_of(workshop, logging="offline") as session:
            session.tracking.wandb(lambda run: runs.append((run, wandb.run)))
            assert len(session.tracking.loggers()) == 2
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    ((ours, theirs),) = runs
    assert ours is theirs is not None
    assert wandb.run is None  # or the next job of a multirun would write into it


def test_further_ranks_of_a_distributed_fit_report_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with session_of(workshop, "trainer=ddp_cpu", logging="offline") as session:
        assert not session.first
        assert not session.monitor.shown
        assert wandb.run is None
        assert logging.getLogger("lrt").level == logging.WARNING


@pytest.mark.parametrize("devices", ["1", "auto"])
def test_a_fit_of_one_process_is_the_first_whatever_rank_the_environment_names(
    devices: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with session_of(workshop, "trainer.accelerator=cpu", f"trainer.devices={devices}") as session:
        assert session.first
        assert session.monitor.shown
        assert rank_zero_only.rank == 0  # Lightning's own too


def test_names_and_tags_of_a_run_hold_no_value_of_an_environment_variable(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRT_SECRET", "hunter2")
    session = session_of(workshop, "pair.name=${oc.env:LRT_SECRET}", "tags=['${oc.env:LRT_SECRET}']")
    assert session.config.pair.name == "${oc.env:LRT_SECRET}"
    identity = session.tracking.identity
    assert identity.tags[:2] == ("${oc.env:LRT_SECRET}", "pair=${oc.env:LRT_SECRET}")
    assert "hunter2" not in repr(identity)
    assert "hunter2" not in session.yaml


def as_multirun(workshop: Workshop, *overrides: str) -> Session:
    config = composed("train", *workshop.settings(*overrides), output=str(workshop.folder / "run"))
    hydra = HydraConfig.instance().cfg
    assert hydra is not None
    with read_write(hydra.hydra):
        hydra.hydra.mode = RunMode.MULTIRUN
        hydra.hydra.sweep.dir = "multirun/mine"
    return Session.of(config, steps=7)


def test_jobs_of_a_sweep_share_a_group(workshop: Workshop) -> None:
    sessions = (
        session_of(workshop),
        session_of(workshop, "logging.group=mine"),
        as_multirun(workshop),
        as_multirun(workshop, "logging.group=mine"),
    )
    groups = [session.tracking.identity.group for session in sessions]
    assert groups == [sessions[0].config.pair.name, "mine", "multirun/mine", "mine"]


def test_train_and_evaluate_of_the_same_settings_are_one_run(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)

    def id_of(session: Session) -> str | None:
        return session.tracking.identity.id_in(session.cache)

    train = id_of(session_of(workshop))
    config = composed("evaluate", *workshop.settings("tags=[a]"), output=str(workshop.folder / "other"))
    assert id_of(Session.of(config, steps=7)) == train
    others = [
        session_of(workshop, "seed=1"),
        as_multirun(workshop),
        session_of(workshop, "logging.project=a"),
    ]
    assert len({train, *map(id_of, others)}) == 4
    monkeypatch.setenv("WANDB_SWEEP_ID", "of-a-sweep")  # whose agent names the run
    assert id_of(session_of(workshop)) is None


def test_more_devices_within_a_multirun_are_refused(workshop: Workshop) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.devices=2"):
        as_multirun(workshop, "trainer=ddp_cpu")


@pytest.mark.parametrize(
    ("metric", "value"),
    [("null", None), ("fvu", 0.25), ("ratios.french", 0.5), ("steps", 3.0)],
)
def test_the_outcome_is_written_and_the_metric_returned(
    metric: str, value: float | None, workshop: Workshop
) -> None:
    outcome = {"fvu": 0.25, "steps": 3, "ratios": {"french": 0.5, "dogs": None}}
    with session_of(workshop, f"optimized_metric={metric}") as session:
        assert session.finish(outcome) == value
    assert json.loads((workshop.folder / "run" / "outcome.json").read_text()) == outcome


@pytest.mark.parametrize("metric", ["nothing", "ratios.dogs", "ratios", "fvu.more"])
def test_a_metric_that_is_no_number_is_named(metric: str, workshop: Workshop) -> None:
    with (
        session_of(workshop, f"optimized_metric={metric}") as session,
        pytest.raises(ConfigError, match=f"optimized_metric={metric}"),
    ):
        session.finish({"fvu": 0.25, "ratios": {"dogs": None}})


def test_settings_of_the_stages_come_from_their_sections(workshop: Workshop) -> None:
    session = session_of(workshop, "pool=4", "map.bias=false", "batches.rows=7", "ckpt_path=a.ckpt")
    assert (session.row_settings.pool, session.row_settings.bias) == (4, False)
    assert (session.fit_settings.batches.rows, session.fit_settings.ckpt_path) == (7, "a.ckpt")
    assert session.fit_output.command.startswith("python train.py experiment=micro pair=own")
    assert session.models == workshop.artifacts / "models"


def test_paths_and_brackets_are_printed_whole(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    session = session_of(workshop)
    path = f"[bold]/{'a' * 200}/end"
    session.print(path)
    session.print_table(Table("title", ("name",), (("value",),)))
    err = capsys.readouterr().err
    assert path in err
    assert "value" in err


def test_a_text_to_be_passed_on_names_no_folder_of_the_machine() -> None:
    assert without_folder(f"path: {Path.cwd()}/artifacts") == "path: artifacts"


def test_a_writable_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "paths.report")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("setting", ["artifacts", "report", "logs"])
def test_a_folder_that_cannot_be_written_names_its_setting(setting: str, workshop: Workshop) -> None:
    blocked = workshop.folder / "file" / "below"  # below a file, which stops root too
    blocked.parent.touch()
    with (
        pytest.raises(ConfigError, match=rf"paths\.{setting}=.*file/below"),
        session_of(workshop, f"paths.{setting}={blocked}"),
    ):
        pass


def test_a_working_folder_that_hydra_changes_is_refused(workshop: Workshop) -> None:
    """Relative paths of settings would lead elsewhere, and another run would not find the artifacts."""
    with pytest.raises(ConfigError, match=r"hydra\.job\.chdir"):
        session_of(workshop, "hydra.job.chdir=true")


def test_the_command_that_makes_a_map_finds_the_same_configs(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "own" / "pair").mkdir(parents=True)
    (tmp_path / "own" / "pair" / "mine.yaml").write_text("name: m\nsource: {path: A}\ntarget: {path: B}\n")
    commands: list[str] = []

    def main(config: DictConfig) -> None:
        with Session.of(config, steps=1) as session:
            commands.append(session.fit_output.command)

    settings = [word for word in workshop.settings() if not word.startswith("pair")]
    folder = str(tmp_path / "own")
    assert run_main(main, "train", "--config-dir", folder, *settings, "pair=mine", "seed=3").code == 0
    words = shlex.split(commands[0])
    assert words[words.index("--config-dir") + 1] == folder
    assert {"pair=mine", "seed=3"} <= set(words)


def test_the_command_that_makes_a_map_names_a_config_of_the_users(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 5\n")
    commands: list[str] = []

    def main(config: DictConfig) -> None:
        with Session.of(config, steps=1) as session:
            commands.append(session.fit_output.command)

    named = ("--config-dir", str(tmp_path), "--config-name", "mine")
    ran = run_main(main, "train", *named, *workshop.settings())
    assert ran.code == 0, ran.output
    words = shlex.split(commands[0])
    assert words[words.index("--config-name") + 1] == "mine"


def test_report_links_to_the_newest_and_spares_what_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "index.html").write_text(name)
        link_newest(tmp_path / "outputs" / name)
        assert Path("report", "index.html").read_text() == name
    assert (tmp_path / "outputs" / "first" / "index.html").read_text() == "first"
    Path("report").unlink()
    Path("report").mkdir()
    Path("report", "index.html").write_text("mine")
    link_newest(tmp_path / "outputs" / "first")
    assert Path("report", "index.html").read_text() == "mine"


def test_only_a_single_run_s_own_report_is_linked(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session_of(workshop).reported(Path("x"))  # of a folder that the user named
    own = "paths.report=${paths.logs}/report"
    as_multirun(workshop, own).reported(Path("x"))
    assert not Path("report").is_symlink()
    session_of(workshop, own).reported(Path("x"))
    assert Path("report").resolve() == (workshop.folder / "run" / "report").resolve()
