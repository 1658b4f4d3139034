"""What a report and W&B show of a config: the text of an environment variable's name, never its value."""

import pytest
from running import composed

from lrt.config.reading import as_plain, as_published, as_yaml


def test_values_of_environment_variables_are_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRT_SECRET", "hunter2")
    config = composed("train", "logging.project=${oc.env:LRT_SECRET}", "tags=['${logging.project}-a']")
    assert as_plain(config)["logging"]["project"] == "hunter2"
    published = as_published(config)
    assert published["logging"]["project"] == "${oc.env:LRT_SECRET}"
    assert published["tags"] == ["${oc.env:LRT_SECRET}-a"]
    assert "hunter2" not in as_yaml(published)
    # and the value is what the run itself still reads
    assert as_plain(config)["tags"] == ["hunter2-a"]


def test_wandbs_own_variables_count_where_the_config_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    settings = as_plain(composed("train"))["logging"]
    assert (settings["mode"], settings["project"], settings["name"]) == ("disabled", "mine", None)
    assert as_plain(composed("train", "logging.mode=offline"))["logging"]["mode"] == "offline"
