"""Results that are made once: whole or absent, checked when read, made by one process while others wait."""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lrt.storage.cache import JSON, TENSORS, Cache, CacheCorrupt, Format
from lrt.storage.sealed import read_sealed, write_sealed

FACTS = {"model": "tiny", "layers": [1, 2]}
FORK = multiprocessing.get_context("fork")


def never() -> Any:
    raise AssertionError("made again")


def write_folder(folder: Path, result: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "part").write_text(result["part"])
    write_sealed(folder / "card.json", {"parts": 1})


def read_folder(folder: Path) -> dict[str, str]:
    read_sealed(folder / "card.json")
    return {"part": (folder / "part").read_text()}


FOLDER: Format[dict[str, str]] = Format("", write_folder, read_folder, "card.json")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


@pytest.mark.parametrize(
    ("form", "result"),
    [(JSON, {"fvu": 0.25, "notes": [None, "x"]}), (JSON, [1, 2]), (FOLDER, {"part": "whole"})],
)
def test_a_stage_is_its_facts_and_a_function(cache: Cache, form: Format[Any], result: Any) -> None:
    assert cache.made_once("stage", FACTS, lambda: result, form) == result
    assert Cache(cache.folder).made_once("stage", FACTS, never, form) == result
    assert cache.path("stage", FACTS, form.suffix).exists()


def test_tensors_come_back_as_they_were(cache: Cache) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True])}
    cache.made_once("stage", FACTS, lambda: tensors, TENSORS)
    again = cache.made_once("stage", FACTS, never, TENSORS)
    assert {name: value.tolist() for name, value in again.items()} == {
        name: value.tolist() for name, value in tensors.items()
    }


def test_numbers_that_are_none_are_kept(cache: Cache) -> None:
    cache.made_once("stage", FACTS, lambda: [float("inf"), None], JSON)
    assert cache.made_once("stage", FACTS, never, JSON) == [float("inf"), None]


@pytest.mark.parametrize("other", [{**FACTS, "layers": [2, 1]}, {**FACTS, "bias": False}, {"model": "tiny"}])
def test_another_fact_is_another_entry(cache: Cache, other: dict[str, Any]) -> None:
    assert cache.made_once("stage", FACTS, lambda: "one", JSON) == "one"
    assert cache.made_once("stage", other, lambda: "other", JSON) == "other"
    assert cache.made_once("stage", FACTS, never, JSON) == "one"


def test_another_kind_is_another_folder_and_a_name_is_for_people(cache: Cache) -> None:
    assert cache.made_once("one", FACTS, lambda: 1, JSON) == 1
    assert cache.made_once("other", FACTS, lambda: 2, JSON, "french") == 2
    (named,) = (cache.folder / "other").glob("french-*.json")
    assert named == cache.path("other", FACTS, JSON.suffix, "french")


@pytest.mark.parametrize("form", [JSON, TENSORS, FOLDER])
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_entry_is_named_and_not_made_again(cache: Cache, form: Format[Any], cut: bool) -> None:
    result: Any = {"part": torch.ones(8)} if form is TENSORS else {"part": "whole"}
    cache.made_once("stage", FACTS, lambda: result, form)
    path = cache.path("stage", FACTS, form.suffix)
    file = path / form.last if form.last else path
    content = bytearray(file.read_bytes())
    if cut:
        content = content[:-4]
    else:
        content[-8] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(CacheCorrupt) as error:
        cache.made_once("stage", FACTS, never, form)
    assert str(path) in str(error.value)


def test_what_making_raises_is_raised_and_leaves_nothing(cache: Cache) -> None:
    def fails() -> Any:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        cache.made_once("stage", FACTS, fails, JSON)
    assert not list((cache.folder / "stage").iterdir())
    assert cache.made_once("stage", FACTS, lambda: 1, JSON) == 1


@pytest.mark.parametrize("folder", [True, False])
def test_stopped_work_goes_on_from_its_partial_path(cache: Cache, folder: bool) -> None:
    def work(partial: Path) -> int:
        place = partial / "done" if folder else partial
        done = int(place.read_text()) if place.is_file() else 0
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(str(done + 1))
        if done == 0:
            raise KeyboardInterrupt
        return done

    with pytest.raises(KeyboardInterrupt):
        cache.resumed("stage", FACTS, work, JSON)
    (partial,) = (cache.folder / "stage").iterdir()
    other: list[bool] = []
    cache.resumed("stage", {"other": 1}, lambda path: other.append(path.exists()) or 1, JSON)
    assert other == [False]
    assert cache.resumed("stage", FACTS, work, JSON) == 1
    assert not partial.exists()
    assert cache.resumed("stage", FACTS, lambda _: never(), JSON) == 1


def test_a_partial_path_left_by_a_kill_is_removed(cache: Cache) -> None:
    cache.made_once("stage", FACTS, lambda: 1, JSON)
    path = cache.path("stage", FACTS, ".json")
    path.with_name(f"{path.name}.partial").write_text("written before the kill")
    assert cache.made_once("stage", FACTS, never, JSON) == 1
    assert [each.name for each in path.parent.iterdir()] == [path.name]


# -- several processes -------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_one_process_makes_and_another_waits_and_reads(
    cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"

    def slow() -> str:
        begun.touch()
        wait_for(go_on.exists)
        return "by the first"

    first = FORK.Process(target=lambda: cache.made_once("stage", FACTS, slow, JSON))
    first.start()
    wait_for(begun.exists)

    class GoOn(logging.Handler):
        """The first is done once the second is seen to wait."""

        def emit(self, record: logging.LogRecord) -> None:
            go_on.touch()
            record.getMessage()

    logger, handler = logging.getLogger("lrt.storage.locks"), GoOn()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, logger="lrt.storage.locks"):
            assert cache.made_once("stage", FACTS, never, JSON) == "by the first"
    finally:
        logger.removeHandler(handler)
        go_on.touch()
    first.join(30)
    assert first.exitcode == 0
    assert str(first.pid) in caplog.text  # who is waited for
    assert len(list((cache.folder / "stage").iterdir())) == 1


def test_a_killed_maker_leaves_nothing_that_is_taken_for_whole(cache: Cache) -> None:
    def dies() -> None:
        def half(folder: Path, result: dict[str, str]) -> None:
            folder.mkdir(parents=True)
            (folder / "part").write_text(result["part"][:2])
            os._exit(9)

        cache.made_once("stage", FACTS, lambda: {"part": "whole"}, Format("", half, read_folder, "card.json"))

    process = FORK.Process(target=dies)
    process.start()
    process.join(30)
    assert process.exitcode == 9
    assert cache.path("stage", FACTS).is_dir()
    # its lock ended with it
    assert cache.made_once("stage", FACTS, lambda: {"part": "whole"}, FOLDER) == {"part": "whole"}
