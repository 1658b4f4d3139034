"""A config may name nothing to be called but Hydra's plugins, our record of sweeps and log handlers."""

from typing import Any

import pytest
from running import composed, run_main

from lrt.cli.targets import named_in


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
    ],
)
def test_what_hydra_would_call_is_refused_before_it_is_called(
    override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr("os.system", called.append)
    ran = run_main(called.append, "train", override)
    assert ran.code == 1
    path = override.lstrip("+").split("=")[0]
    assert path in ran.line
    assert "Traceback" not in ran.told
    assert called == []


@pytest.mark.parametrize("name", ["train", "record", "atlas", "pretrain"])
def test_what_is_shipped_names_nothing_else(name: str) -> None:
    assert not [*named_in(composed(name))]


def test_lists_are_searched_too() -> None:
    joblib = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
    named = named_in({"a": [{"_target_": joblib}, {"b": {"()": "pickle.loads"}}], "class": 3})
    assert [*named] == [("a.1.b.()", "pickle.loads"), ("class", "3")]
