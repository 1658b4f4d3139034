"""A config may name nothing to be called but Hydra's plugins, our record of sweeps and log handlers."""

from typing import Any

import pytest
from running import composed, run_main

from lrt.cli.targets import refused_in


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.more._target_=os.system",
        "hydra.callbacks.sweep_report._target_=subprocess.Popen",
        "+hydra.callbacks.more._target_=lrt.storage.durable.shutil.copytree",
        "+hydra.callbacks.more._target_=hydra_plugins.some.os.system",
        "+hydra.callbacks.more='${oc.decode:\"{_target_: os.system}\"}'",
        "+hydra.callbacks.more._target_='${oc.env:HOME}'",
        "++hydra.job_logging.handlers.console.class=subprocess.Popen",
        "++hydra.job_logging.handlers.console.stream=ext://os.environ",
        "++hydra.sweeper._target_=builtins.eval",
        "+hydra.job.env_set.GIT_SSH_COMMAND=true",
        "++hydra.job_logging.handlers.file={class: logging.FileHandler, filename: /tmp/anywhere}",
    ],
)
def test_what_hydra_would_call_is_refused_before_it_is_called(
    override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr("os.system", called.append)
    ran = run_main(called.append, "train", override)
    assert ran.code == 1
    path = ".".join(override.lstrip("+").split("=")[0].split(".")[:3])
    assert path in ran.line
    assert "Traceback" not in ran.output
    assert called == []


@pytest.mark.parametrize("name", ["train", "record", "atlas", "pretrain"])
def test_what_is_shipped_names_nothing_else(name: str) -> None:
    assert not [*refused_in(composed(name))]


def test_lists_are_searched_too() -> None:
    joblib = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
    named = refused_in({"a": [{"_target_": joblib}, {"b": {"()": "pickle.loads"}}], "class": 3})
    assert [*named] == [("a.1.b.()", "pickle.loads"), ("class", "3")]


@pytest.mark.parametrize(
    ("file", "allowed"),
    [
        ("${hydra:runtime.output_dir}/${hydra:job.name}.log", True),
        ("${hydra:runtime.output_dir}/../elsewhere", False),
        ("${hydra.runtime.cwd}/log", False),
        ("/var/log/lrt", False),
        ("${oc.env:HOME}/.bashrc", False),
    ],
)
def test_log_files_lie_in_the_run_folder(file: str, allowed: bool) -> None:
    handler = {"class": "logging.FileHandler", "filename": file}
    refused = [*refused_in({"hydra": {"job_logging": {"handlers": {"file": handler}}}})]
    assert (refused == []) is allowed


def test_samplers_of_optuna_are_allowed() -> None:
    sampler = {"_target_": "optuna.samplers.TPESampler", "seed": 0}
    assert [*refused_in({"hydra": {"sweeper": {"sampler": sampler}}})] == []
    assert [*refused_in({"hydra": {"sweeper": {"sampler": {"_target_": "optuna.storages.os.system"}}}})]
