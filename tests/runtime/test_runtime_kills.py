"""Whole runs that die at a write, or whose disk is full at one: the same command ends with the same bytes.

A run forces everything onto the disk by `os.fsync` and gives it its name by `os.replace` (`lrt.durable`), so
dying at the k-th of these calls visits every state that a kill can leave, of every stage: shards, states of
the prompts, moments, checkpoints, the map, its vectors, choices, journals, measurements.
"""

import errno
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import Ran, Workshop

pytestmark = pytest.mark.xdist_group("micro")
SETTINGS = (
    "corpus.tokens.train=16384",
    "recording.rows_per_shard=4096",
    "batches.rows=256",
    "fit.epochs=2",
    "evaluation.probe.behaviours=[]",
    "analysis.rank_curve=true",
    "evaluation.folds=12",  # names whose order is not that of their numbers
    "evaluate=true",
)
KINDS = ("activations", "states", "moments", "maps", "choices", "measurements", "analysis")
DIED = 77


def kept(workshop: Workshop) -> dict[str, bytes]:
    """What a finished run leaves to be found again; checkpoints are for resuming alone, and cards tell how
    long it took."""
    found = (path for kind in KINDS for path in (workshop.artifacts / kind).rglob("*") if path.is_file())
    return {
        str(path.relative_to(workshop.artifacts)): path.read_bytes()
        for path in found
        if "checkpoints" not in path.parts and path.name != "mapping.json"
    }


def counted(patch: pytest.MonkeyPatch, happens: Callable[[int], None]) -> list[int]:
    """Calls `happens` with their number before every fsync and replace; the count so far."""
    calls = [0]
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def call(*given: Any, real: Any = real, **named: Any) -> Any:
            calls[0] += 1
            happens(calls[0])
            return real(*given, **named)

        patch.setattr(os, name, call)
    return calls


def dies_at(workshop: Workshop, at: int, *more: str) -> bool:
    """Runs in a child that ends, with nothing said or tidied, before the `at`-th call; whether it did."""

    def child() -> None:
        with pytest.MonkeyPatch.context() as patch:

            def happens(number: int) -> None:
                if number == at:
                    os._exit(DIED)

            counted(patch, happens)
            ran = workshop.train(*SETTINGS, *more)
        os._exit(ran.code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(300)
    assert process.exitcode in (0, DIED)
    return process.exitcode == DIED


def full_at(workshop: Workshop, at: int, *more: str) -> Ran:
    """Runs with a disk that is full from the `at`-th call on."""
    with pytest.MonkeyPatch.context() as patch:

        def happens(number: int) -> None:
            if number >= at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        counted(patch, happens)
        return workshop.train(*SETTINGS, *more)


@pytest.fixture(scope="session")
def whole(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """What a run leaves that nothing befell, and how many calls it made."""
    workshop = Workshop(pair_folder, tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        calls = counted(patch, lambda _: None)
        ran = workshop.train(*SETTINGS)
    assert ran.code == 0, ran.told
    return kept(workshop), calls[0]


def check(workshop: Workshop, wanted: dict[str, bytes]) -> None:
    ran = workshop.train(*SETTINGS)
    assert ran.code == 0, ran.told
    found = kept(workshop)
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_a_run_that_dies_again_and_again_ends_as_one_that_did_not(
    workshop: Workshop, whole: tuple[dict[str, bytes], int]
) -> None:
    wanted, calls = whole
    assert calls > 60  # there is much to die at
    # longer and longer lives: a stage that is kept as a whole has to come to its end in one
    lives = [int(calls * share) for share in (0.03, 0.08, 0.15, 0.25, 0.4)]
    assert [dies_at(workshop, at) for at in lives][:3] == [True, True, True]
    check(workshop, wanted)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_full_disk_is_told_of_and_nothing_is_lost(
    workshop: Workshop, whole: tuple[dict[str, bytes], int], share: float
) -> None:
    wanted, calls = whole
    ran = full_at(workshop, int(share * calls))
    assert ran.code == 1
    assert "No space left on device" in ran.line or "disk filled up" in ran.line
    assert "Traceback" not in ran.told
    check(workshop, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("of", range(20))
def test_dead_at_any_write_of_any_stage(
    workshop: Workshop, whole: tuple[dict[str, bytes], int], of: int
) -> None:
    wanted, calls = whole
    at = 1 + of * (calls - 1) // 19
    assert dies_at(workshop, at) == (at <= calls)
    check(workshop, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("of", range(6))
def test_full_at_any_write_of_any_stage(
    workshop: Workshop, whole: tuple[dict[str, bytes], int], of: int
) -> None:
    wanted, calls = whole
    assert full_at(workshop, 1 + of * (calls - 1) // 6).code == 1
    check(workshop, wanted)


@pytest.mark.slow
def test_a_sweep_that_dies_again_and_again_ends_as_one_that_did_not(
    workshop: Workshop, tmp_path: Path
) -> None:
    jobs = ("hydra.mode=MULTIRUN", "layers.source=0,1")
    sweep = (*jobs, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    other = Workshop(workshop.pair, tmp_path / "other")
    assert other.train(*SETTINGS, *jobs, f"hydra.sweep.dir={tmp_path / 'whole'}").code == 0
    deaths = sum(dies_at(workshop, at, *sweep) for at in (20, 60, 100, 150))
    assert deaths >= 3
    assert workshop.train(*SETTINGS, *sweep).code == 0
    assert kept(workshop) == kept(other)
    rows = [(tmp_path / name / str(job) / "job.json") for name in ("sweep", "whole") for job in (0, 1)]
    assert all(row.is_file() for row in rows)
