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
    ("file", "name", "allowed"),
    [
        ("${hydra:runtime.output_dir}/${hydra:job.name}.log", "${task_name}", True),
        ("${hydra.runtime.output_dir}/${hydra.job.name}.log", "mine", True),
        ("${hydra.runtime.output_dir}/epochs.of-1.log", "mine", True),
        ("${hydra:runtime.output_dir}/${hydra:job.name}", "mine", False),
        ("${hydra:runtime.output_dir}/${hydra:job.name}.log", "../../mine", False),
        ("${hydra:runtime.output_dir}/${hydra:job.name}.log", "${oc.env:HOME}", False),
        ("${hydra:runtime.output_dir}/.bashrc", "mine", False),
        ("${hydra:runtime.output_dir}/.log", "mine", False),
        ("${hydra:runtime.output_dir}/../elsewhere.log", "mine", False),
        ("${hydra:runtime.output_dir}/${task_name}.log", "mine", False),
        ("${hydra.runtime.cwd}/some.log", "mine", False),
        ("/var/log/lrt.log", "mine", False),
        ("${oc.env:HOME}/.bashrc", "mine", False),
    ],
)
def test_log_files_lie_in_the_run_folder(file: str, name: str, allowed: bool) -> None:
    logging = {"handlers": {"file": {"class": "logging.FileHandler", "filename": file}}}
    hydra = {"job": {"name": name}, "job_logging": logging}
    assert ([*refused_in({"task_name": "train", "hydra": hydra})] == []) is allowed
    if "job.name" in file and name == "${task_name}":
        assert [*refused_in({"task_name": "../train", "hydra": hydra})] != []


HANDLER = {"class": "logging.FileHandler", "filename": "${hydra:runtime.output_dir}/a.log"}


@pytest.mark.parametrize(
    "hydra",
    [
        "${evil}",
        {"job": "${evil}"},
        {"job_logging": "${evil}"},
        {"hydra_logging": {"handlers": {"file": "${evil}"}}},
        {"hydra_logging": {"handlers": "${hydra:evil}"}},
        {"job_logging": {"handlers": {"a": {"class": "logging.StreamHandler", "stream": "${e}://os"}}}},
        {"job_logging": {"handlers": {"a": HANDLER | {"mode": "w"}}}},
        {"job_logging": {"handlers": {"a": HANDLER | {"delay": True, ".": {"baseFilename": "/any"}}}}},
        {"callbacks": {"more": "${evil}"}},
        {"launcher": "${evil}"},
        {"launcher": {"setup": ["curl | sh"]}},
        {"sweeper": {"sampler": "${evil}"}},
        {"sweeper": {"custom_search_space": "os.system"}},
        {"output_subdir": "../../elsewhere"},
        {"output_subdir": "app"},
    ],
)
def test_sections_of_hydra_are_written_out_and_write_to_no_other_file(hydra: Any) -> None:
    evil = {"class": "logging.FileHandler", "filename": "/any/file"}
    assert [*refused_in({"evil": evil, "hydra": hydra})] != []


@pytest.mark.parametrize(
    "hydra",
    [
        {
            "run": {"dir": "outputs/${now:%H}"},
            "sweep": {"dir": "${oc.env:SCRATCH}", "subdir": "${hydra:job.num}"},
        },
        {"launcher": {"submitit_folder": "${hydra.sweep.dir}/.submitit/%j", "name": "${hydra.job.name}"}},
        {"sweeper": {"study_name": "of-${seed}", "storage": None, "custom_search_space": None}},
        {"output_subdir": None},
        {"job_logging": {"handlers": {"file": HANDLER}}},
    ],
)
def test_folders_and_names_of_a_sweep_may_be_chosen(hydra: Any) -> None:
    assert [*refused_in({"hydra": hydra})] == []


def test_samplers_of_optuna_are_allowed() -> None:
    sampler = {"_target_": "optuna.samplers.TPESampler", "seed": 0}
    assert [*refused_in({"hydra": {"sweeper": {"sampler": sampler}}})] == []
    assert [*refused_in({"hydra": {"sweeper": {"sampler": {"_target_": "optuna.storages.os.system"}}}})]
