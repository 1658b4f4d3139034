"""W&B's sweep files, with a stand-in for the agent: it makes each command as W&B's own agent does."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import ROOT, Workshop, composed, run_apart
from wandb.sdk.launch.sweeps import utils

from lrt.cli.run_identity import RunIdentity
from lrt.config import read_config
from lrt.config.published import Published
from lrt.evaluation.storybook import StorybookSuite
from lrt.evaluation.summary import HEADLINE

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))


def agent(sweep: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """The words of the command that W&B's agent starts for chosen parameters."""
    words = utils.create_sweep_command(sweep["command"])
    parts = utils.create_sweep_command_args({"args": {k: {"value": v} for k, v in chosen.items()}})
    parts |= {"interpreter": [sys.executable], "program": [sweep["program"]], "env": []}
    line: list[str] = []
    for word in words:
        name = word[2:-1] if word.startswith("${") else None
        line += parts[name] if name is not None else [word]
    return line


def first_choice(parameter: dict[str, Any]) -> Any:
    if "values" in parameter:
        return parameter["values"][-1]
    return parameter.get("value", parameter.get("max"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_agents_command_composes_to_what_it_chose(file: Path) -> None:
    sweep = yaml.safe_load(file.read_text())
    chosen = {name: first_choice(parameter) for name, parameter in sweep["parameters"].items()}
    interpreter, program, *overrides = agent(sweep, chosen)
    assert (interpreter, (ROOT / program).is_file()) == (sys.executable, True)
    config = composed("train", *overrides)
    settings = Published(config).settings
    for name, value in chosen.items():
        node: Any = settings
        for part in name.split("."):
            node = node[part]
        assert node == value if name != "map" else node["kind"] == value
    typed = read_config(config)
    assert typed.logging.mode == "online"
    assert typed.evaluate  # or the run would not log the sweep's metric
    assert typed.evaluation.eval_split == "development"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_metric_is_one_that_a_run_logs_and_its_goal_the_better_side(file: Path) -> None:
    sweep = yaml.safe_load(file.read_text())
    behaviour, figure = sweep["metric"]["name"].split("/")
    assert sweep["metric"]["goal"] == {"max": "maximize", "min": "minimize"}[HEADLINE[figure]]
    suite = read_config(composed("train", "experiment=sweep")).suite
    assert isinstance(suite, StorybookSuite)
    assert behaviour in suite.names


def test_the_agent_names_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lrt.storage.cache import Cache

    config = composed("train", "experiment=sweep")
    identity = RunIdentity.of(read_config(config), Published(config).settings)
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    assert identity.id_in(Cache(tmp_path)) is None


@pytest.mark.slow
def test_a_job_of_the_agent_runs(workshop: Workshop) -> None:
    sweep = yaml.safe_load((ROOT / "sweeps" / "layers.yaml").read_text())
    sweep["command"] = [
        word for word in sweep["command"] if not str(word).startswith(("experiment", "logging"))
    ]
    _, program, *overrides = agent(sweep, {"layers.source": 1, "layers.target": 2})
    small = workshop.settings("corpus.tokens.train=4096", logging="offline")
    ran = run_apart(Path(program).stem, *small, *overrides, WANDB_SWEEP_ID="sweep", WANDB_RUN_ID="of-agent")
    assert ran.code == 0, ran.output
    assert len(list(workshop.folder.glob("run/wandb/offline-run-*-of-agent"))) == 1
