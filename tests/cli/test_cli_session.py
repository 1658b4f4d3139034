"""A session's clock, its loggers, and that it closes what it opened."""

import logging
import time
from pathlib import Path

import pytest
import wandb
from lrt.runtime.schema import ConfigError
from lrt.runtime.session import Session, check_writable
from running import Workshop, composed


def opened(workshop: Workshop) -> Session:
    return Session.of(composed("train", *workshop.settings(), output=str(workshop.folder)), "train")


def test_a_stage_within_a_stage_is_counted_once(workshop: Workshop) -> None:
    session = opened(workshop)
    with session.stage("outer"):
        time.sleep(0.1)
        with session.stage("inner"):
            time.sleep(0.3)
        with session.stage("inner"):
            time.sleep(0.1)
    assert 0.4 <= session.seconds["inner"] < 3
    assert session.seconds["outer"] >= 0.1
    assert session.seconds["outer"] < session.seconds["inner"]


def test_a_stage_that_fails_is_timed_too(workshop: Workshop) -> None:
    session = opened(workshop)
    with pytest.raises(KeyError), session.stage("broken"):
        raise KeyError
    assert "broken" in session.seconds


def test_the_run_is_closed_after_an_error(workshop: Workshop) -> None:
    config = composed("train", *workshop.settings(logging="offline"), output=str(workshop.folder))
    lrt = logging.getLogger("lrt")
    before = lrt.handlers[:], lrt.level, lrt.propagate
    seen = []

    def fail() -> None:
        with Session.of(config, "train") as session:
            session.tell_wandb(lambda run: seen.append((run, wandb.run)))
            raise RuntimeError("on purpose")

    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            fail()
    finally:
        lrt.handlers, lrt.level, lrt.propagate = before
        lrt.setLevel(before[1])
    ((ours, theirs),) = seen
    assert ours is theirs is not None
    assert wandb.run is None  # or the next job of a multirun would write into it


def test_writable_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "paths.report")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_folder_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"paths\.report=.*file/x cannot be written"):
        check_writable(tmp_path / "file" / "x", "paths.report")
