"""Whole runs that die at a write, or whose disk is full at one: the same command ends with the same bytes.

A run forces everything onto the disk by `os.fsync` and gives it its name by `os.replace` (`lrt.storage.durable`), so
dying at the k-th of these calls visits every state that a kill can leave, of every stage: shards, states of
the prompts, moments, checkpoints, the map, its vectors, choices, journals, measurements.
"""

import errno
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lrt.runtime.atlas import main as atlas
from lrt.runtime.record import main as record
from running import Ran, Workshop, run_main

pytestmark = pytest.mark.xdist_group("micro")
SETTINGS = (
    "corpus.tokens.train=16384",
    "recording.rows_per_shard=4096",
    "batches.rows=256",
    "fit.epochs=2",
    "evaluation.during_training.behaviours=[]",
    "analysis.rank_curve=true",
    "evaluation.folds=12",  # names whose order is not that of their numbers
    "evaluate=true",
)
DIED = 77
Job = Callable[[Workshop], Ran]


def train(workshop: Workshop, more: tuple[str, ...] = ()) -> Ran:
    return workshop.train(*SETTINGS, *more)


def features(workshop: Workshop) -> Ran:
    """With autoencoders of both models, and features that steer."""
    return train(workshop, ("analysis.sae.features=64",))


def shares(workshop: Workshop) -> Ran:
    """Two shares of a store and their merge, three commands."""
    same = ("pair.source.dtype=float32", "pair.target.dtype=float32")
    split = ("recording.rows_per_shard=2048", "corpus.tokens.train=16384", *same)
    for more in ("record.share=0/2", "record.share=1/2", "record.merge=true"):
        ran = run_main(record, "record", *workshop.settings(*split, more))
        if ran.code:
            break
    return ran


def pairs_of_layers(workshop: Workshop) -> Ran:
    """`make atlas`, its sums written every few blocks."""
    thin = ("atlas.source=[1]", "atlas.target=2", "atlas.checkpoint_every=4", "recording.batch_tokens=1024")
    return run_main(atlas, "atlas", *workshop.settings(*thin))


def kept(workshop: Workshop) -> dict[str, bytes]:
    """What a finished run leaves to be found again; checkpoints are for resuming alone, and cards tell how
    long it took."""
    return {
        str(path.relative_to(workshop.artifacts)): path.read_bytes()
        for path in workshop.artifacts.rglob("*")
        if path.is_file()
        and "checkpoints" not in path.parts
        and path.name not in ("mapping.json", "sae.json")
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


def dies_at(workshop: Workshop, at: int, job: Job = train) -> bool:
    """Runs in a child that ends, with nothing said or tidied, before the `at`-th call; whether it did."""

    def child() -> None:
        with pytest.MonkeyPatch.context() as patch:

            def happens(number: int) -> None:
                if number == at:
                    os._exit(DIED)

            counted(patch, happens)
            ran = job(workshop)
        os._exit(ran.code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(300)
    assert process.exitcode in (0, DIED)
    return process.exitcode == DIED


def full_at(workshop: Workshop, at: int) -> Ran:
    """Runs with a disk that is full from the `at`-th call on."""
    with pytest.MonkeyPatch.context() as patch:

        def happens(number: int) -> None:
            if number >= at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        counted(patch, happens)
        return train(workshop)


def undisturbed(workshop: Workshop, job: Job) -> tuple[dict[str, bytes], int]:
    """What a run leaves that nothing befell, and how many calls it made."""
    with pytest.MonkeyPatch.context() as patch:
        calls = counted(patch, lambda _: None)
        ran = job(workshop)
    assert ran.code == 0, ran.told
    return kept(workshop), calls[0]


@pytest.fixture(scope="session")
def whole(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """Of training and evaluation."""
    return undisturbed(Workshop(pair_folder, tmp_path_factory.mktemp("whole")), train)


def check(workshop: Workshop, wanted: dict[str, bytes], job: Job = train) -> None:
    ran = job(workshop)
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
@pytest.mark.parametrize("job", [features, shares, pairs_of_layers])
def test_other_commands_that_die_again_and_again(workshop: Workshop, tmp_path: Path, job: Job) -> None:
    wanted, calls = undisturbed(Workshop(workshop.pair, tmp_path / "whole"), job)
    lives = [int(calls * share) for share in (0.05, 0.15, 0.3, 0.5, 0.7, 0.85)]
    assert sum(dies_at(workshop, at, job) for at in lives) >= 3
    check(workshop, wanted, job)


@pytest.mark.slow
def test_a_sweep_that_dies_again_and_again_ends_as_one_that_did_not(
    workshop: Workshop, tmp_path: Path
) -> None:
    jobs = ("hydra.mode=MULTIRUN", "layers.source=0,1")
    sweep = (*jobs, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    other = Workshop(workshop.pair, tmp_path / "other")
    assert other.train(*SETTINGS, *jobs, f"hydra.sweep.dir={tmp_path / 'whole'}").code == 0
    deaths = sum(dies_at(workshop, at, partial(train, more=sweep)) for at in (20, 60, 100, 150))
    assert deaths >= 3
    assert workshop.train(*SETTINGS, *sweep).code == 0
    assert kept(workshop) == kept(other)
    rows = [(tmp_path / name / str(job) / "job.json") for name in ("sweep", "whole") for job in (0, 1)]
    assert all(row.is_file() for row in rows)
