"""`make lab`'s command from end to end, on a model of two steps."""

from pathlib import Path

import pytest
from running import run_module

from lrt.lab.shipped import check_card
from lrt.models import ModelSpec, load


@pytest.mark.xdist_group("readme")
def test_it_trains_checks_and_ships_what_passes(tmp_path: Path) -> None:
    settings = (
        "lab=tiny",
        "lab.tokens=8192",
        "accelerator=cpu",
        "check_items=4",
        f"weights={tmp_path / 'weights'}",
        f"work={tmp_path / 'work'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    ran = run_module("lrt.runtime.pretrain", *settings)
    assert ran.code == 1  # two steps are too few to know anything
    assert "tiny misses a check" in ran.line
    assert "allow_failed_checks=true" in ran.line
    assert check_card(tmp_path / "work" / "missed" / "tiny")["note"]
    assert not (tmp_path / "weights" / "tiny").exists()
    ran = run_module("lrt.runtime.pretrain", *settings, "allow_failed_checks=true")
    assert ran.code == 0, ran.told
    card = check_card(tmp_path / "weights" / "tiny")
    assert card["tokens_seen"] == 8192
    assert len(card["checks"]) == 4
    assert "MISSED: answers trait questions" in ran.told or "passed: answers trait questions" in ran.told
    assert load(ModelSpec(str(tmp_path / "weights" / "tiny"))).depth == card["depth"]


def test_a_setting_that_is_not_there_is_named(tmp_path: Path) -> None:
    ran = run_module("lrt.runtime.pretrain", "lab=tiny", "lab.widht=3", f"hydra.run.dir={tmp_path}")
    assert ran.code == 1
    assert "lab.widht" in ran.told
