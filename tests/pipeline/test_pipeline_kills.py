"""Runs that die at a write, or whose disk is full at one: the same run again ends with the same bytes.

A run forces everything onto the disk by `os.fsync` and gives it its name by `os.replace`
(`lrt.storage.durable`). Dying at the k-th of these calls visits every state that a kill can leave, of every
stage: shards, states of the prompts, moments, checkpoints, maps, vectors, choices, journals, measurements.

The stages alone are killed here and there; whole commands, at any write, by the slow tests.
"""

import errno
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from running import Ran, Workshop, run_main
from stages import Stages, corpus

from lrt.activations import DiskTooSmall
from lrt.cli.atlas import main as atlas
from lrt.cli.record import main as record
from lrt.mapping import FitSpec
from lrt.storage.locks import LOCK

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
Job = Callable[[], int]
Command = Callable[[Workshop], Ran]
Left = dict[str, bytes]


def left_in(folder: Path) -> Left:
    """What a finished run leaves to be reused: checkpoints are for resuming alone, locks name processes,
    notes of checks hold times, `latest` is of the newest run, and cards say how long it took."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and not {"checkpoints", "locks", "logs", "verified", "latest"} & set(path.parts)
        and path.name not in ("mapping.json", "sae.json", LOCK)
    }


def counted(patch: pytest.MonkeyPatch, happens: Callable[[int], None]) -> list[int]:
    """Calls `happens` with their number before every fsync and replace; the count so far."""
    calls = [0]
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def call(*arguments: Any, real: Any = real, **how: Any) -> Any:
            calls[0] += 1
            happens(calls[0])
            return real(*arguments, **how)

        patch.setattr(os, name, call)
    return calls


def dies_at(job: Job, at: int) -> bool:
    """Runs in a child that ends, with nothing reported or tidied, before the `at`-th call; whether it did."""

    def child() -> None:
        with pytest.MonkeyPatch.context() as patch:

            def happens(number: int) -> None:
                if number == at:
                    os._exit(DIED)

            counted(patch, happens)
            code = job()
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(300)
    assert process.exitcode in (0, DIED)
    return process.exitcode == DIED


def full_at(job: Job, at: int) -> int:
    """Runs with a disk that is full from the `at`-th call on."""
    with pytest.MonkeyPatch.context() as patch:

        def happens(number: int) -> None:
            if number >= at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        counted(patch, happens)
        return job()


def undisturbed(job: Job, folder: Path) -> tuple[Left, int]:
    """What a run leaves that nothing befell, and how many calls it made."""
    with pytest.MonkeyPatch.context() as patch:
        calls = counted(patch, lambda _: None)
        assert job() == 0
    return left_in(folder), calls[0]


def check(job: Job, folder: Path, wanted: Left) -> None:
    assert job() == 0
    left = left_in(folder)
    assert sorted(left) == sorted(wanted)
    assert [name for name in wanted if left[name] != wanted[name]] == []


# -- the stages --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(shared: Stages) -> Callable[[Path], int]:
    """All stages in a folder, from nothing."""
    settings = shared.but(
        fit=FitSpec(epochs=2),
        batches=replace(shared.batches, rows=256),
        corpus=corpus(held_out=512),
        recording__source=(),
        recording__target=(),
        evaluation__folds=12,  # names whose order is not that of their numbers
        analysis__rank_curve=True,
    )

    def run(folder: Path) -> int:
        settings.but(folder=folder).results()
        return 0

    return run


@pytest.fixture(scope="module")
def whole(job: Callable[[Path], int], tmp_path_factory: pytest.TempPathFactory) -> tuple[Left, int]:
    folder = tmp_path_factory.mktemp("whole")
    return undisturbed(partial(job, folder), folder)


@pytest.mark.slow
def test_stages_that_die_again_and_again_end_as_those_that_did_not(
    job: Callable[[Path], int], whole: tuple[Left, int], tmp_path: Path
) -> None:
    wanted, calls = whole
    assert calls > 60  # there is much to die at
    run = partial(job, tmp_path)
    # longer and longer lives: a stage that is written as a whole has to come to its end in one
    lives = [int(calls * share) for share in (0.05, 0.15, 0.3, 0.5)]
    assert [dies_at(run, at) for at in lives][:3] == [True, True, True]
    check(run, tmp_path, wanted)


@pytest.mark.parametrize("share", [0.03, 0.6])
@pytest.mark.slow
def test_nothing_is_lost_where_the_disk_is_full(
    job: Callable[[Path], int], whole: tuple[Left, int], tmp_path: Path, share: float
) -> None:
    wanted, calls = whole
    with pytest.raises((OSError, DiskTooSmall)):
        full_at(partial(job, tmp_path), int(share * calls))
    check(partial(job, tmp_path), tmp_path, wanted)


# -- whole commands ----------------------------------------------------------------------------------


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
    """`make atlas`, its sums written every few sequences."""
    thin = ("atlas.source=[1]", "atlas.target=2", "atlas.checkpoint_every=4", "recording.batch_tokens=1024")
    return run_main(atlas, "atlas", *workshop.settings(*thin))


def code_of(command: Command, workshop: Workshop) -> int:
    return command(workshop).code


@pytest.fixture(scope="session")
def trained_whole(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Left, int]:
    """Of training and evaluation."""
    workshop = Workshop(pair_folder, tmp_path_factory.mktemp("whole"))
    return undisturbed(partial(code_of, train, workshop), workshop.artifacts)


@pytest.mark.slow
@pytest.mark.parametrize("of", range(20))
def test_dead_at_any_write_of_any_stage(workshop: Workshop, trained_whole: tuple[Left, int], of: int) -> None:
    wanted, calls = trained_whole
    at = 1 + of * (calls - 1) // 19
    run = partial(code_of, train, workshop)
    assert dies_at(run, at) == (at <= calls)
    check(run, workshop.artifacts, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("of", range(6))
def test_full_at_any_write_of_any_stage(workshop: Workshop, trained_whole: tuple[Left, int], of: int) -> None:
    wanted, calls = trained_whole
    said: list[str] = []

    def run() -> int:
        ran = train(workshop)
        said.append(ran.output)
        return ran.code

    assert full_at(run, 1 + of * (calls - 1) // 6) == 1
    assert "Traceback" not in said[0]  # a full disk is the user's to fix
    check(run, workshop.artifacts, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("command", [features, shares, pairs_of_layers])
def test_other_commands_that_die_again_and_again(
    workshop: Workshop, tmp_path: Path, command: Command
) -> None:
    other = Workshop(workshop.pair, tmp_path / "whole")
    wanted, calls = undisturbed(partial(code_of, command, other), other.artifacts)
    run = partial(code_of, command, workshop)
    lives = [int(calls * share) for share in (0.05, 0.15, 0.3, 0.5, 0.7, 0.85)]
    assert sum(dies_at(run, at) for at in lives) >= 3
    check(run, workshop.artifacts, wanted)


@pytest.mark.slow
def test_a_sweep_that_dies_again_and_again_ends_as_one_that_did_not(
    workshop: Workshop, tmp_path: Path
) -> None:
    jobs = ("hydra.mode=MULTIRUN", "layers.source=0,1")
    sweep = (*jobs, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    other = Workshop(workshop.pair, tmp_path / "other")
    assert other.train(*SETTINGS, *jobs, f"hydra.sweep.dir={tmp_path / 'whole'}").code == 0
    run = partial(code_of, partial(train, more=sweep), workshop)
    assert sum(dies_at(run, at) for at in (20, 60, 100, 150)) >= 3
    check(run, workshop.artifacts, left_in(other.artifacts))
    rows = [(tmp_path / name / str(job) / "job.json") for name in ("sweep", "whole") for job in (0, 1)]
    assert all(row.is_file() for row in rows)
