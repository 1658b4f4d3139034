"""What a report and W&B show of a config: the text of an environment variable's name, never its value."""

import pytest
from running import composed

from lrt.config.published import Published
from lrt.config.reading import as_plain, as_yaml, read_config


def test_values_of_environment_variables_are_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRT_SECRET", "hunter2")
    config = composed("train", "logging.project=${oc.env:LRT_SECRET}", "tags=['${logging.project}-a']")
    assert as_plain(config)["logging"]["project"] == "hunter2"
    published = Published(config).settings
    assert published["logging"]["project"] == "${oc.env:LRT_SECRET}"
    assert published["tags"] == ["${oc.env:LRT_SECRET}-a"]
    assert "hunter2" not in as_yaml(published)
    # and the value is what the run itself still reads
    assert as_plain(config)["tags"] == ["hunter2-a"]


def test_names_and_results_hold_no_value_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRT_SECRET", "hunter2")
    monkeypatch.setenv("LRT_FOLDER", "/home/jo/models")
    monkeypatch.setenv("LRT_SEED", "3")
    monkeypatch.setenv("LRT_BEHAVIOUR", "bravery")
    monkeypatch.setenv("WANDB_PROJECT", "train")
    config = composed(
        "train",
        "pair.name='of ${oc.env:LRT_SECRET}'",
        "pair.source.path='${oc.select:none,${oc.env:LRT_FOLDER}}'",
        "pair.target.path='${oc.env:LRT_FOLDER}/big'",
        "pair.reverse=true",
        "seed=${oc.env:LRT_SEED}",
        "suite.names=['${oc.env:LRT_BEHAVIOUR}']",
    )
    published = Published(config)
    pair = published.labelled(read_config(config).pair)
    assert pair.name == "of ${oc.env:LRT_SECRET}, reversed"
    assert (pair.source.name, pair.target.name) == ("big", "${oc.env:LRT_FOLDER}")
    assert pair.target.path == "/home/jo/models"  # the run itself reads it
    results = {
        "error": "no /home/jo/models/x of hunter2, at layer 3 of train",
        "more": [("hunter2", 3), "hunter21"],
        "ratios": {"bravery": 0.5},
        "behaviours": ["bravery"],
    }
    assert published.masked(results) == {
        "error": "no ${oc.env:LRT_FOLDER}/x of ${oc.env:LRT_SECRET}, at layer 3 of train",
        "more": [["${oc.env:LRT_SECRET}", 3], "hunter21"],
        "ratios": {"bravery": 0.5},
        "behaviours": ["bravery"],
    }


def test_wandbs_own_variables_count_where_the_config_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    settings = as_plain(composed("train"))["logging"]
    assert (settings["mode"], settings["project"], settings["name"]) == ("disabled", "mine", None)
    assert as_plain(composed("train", "logging.mode=offline"))["logging"]["mode"] == "offline"


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": ""}, "offline"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "online"),
    ],
)
def test_every_mode_that_wandbs_variables_name(
    variables: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_config(composed("train")).logging.mode == mode
