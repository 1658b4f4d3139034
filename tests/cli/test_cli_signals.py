"""Ctrl-C and kills of real processes: what was finished is kept, and the same command goes on."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running import ROOT, Workshop

from lrt.cli.stopping import stoppable
from lrt.storage.checkpoints import STOPPING, Stopped
from lrt.storage.locks import LOCK

# enough small shards, and steps, that a signal lands among them
MANY = (
    "recording.rows_per_shard=256",
    "recording.batch_tokens=256",
    "corpus.tokens.train=65536",
    "batches.rows=16",
    "fit.epochs=8",
    "evaluation.during_training.behaviours=[]",
)

# a recording alone: little is done after it
RECORDING = (
    "recording.rows_per_shard=256",
    "recording.batch_tokens=256",
    "corpus.tokens.train=32768",
    "fit=closed_form",
    "evaluation.untrained_draws=0",
)


def started(workshop: Workshop, *settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *workshop.settings(*settings)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def stopped(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """What a process says that was sent a signal."""
    process.send_signal(number)
    before = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert time.monotonic() - before < 20  # what is under way gets 3 seconds, and W&B 2
    assert "Traceback" not in output
    return " ".join(output.split())


def processes_of(folder: Path) -> set[int]:
    """Processes whose command line names the folder."""
    found = set()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder) in line.read_text():
                found.add(int(line.parent.name))
    return found


def kept(artifacts: Path, *kinds: str) -> dict[str, bytes]:
    paths = (path for kind in kinds for path in (artifacts / kind).rglob("*") if path.is_file())
    # a lock names its process
    return {str(path.relative_to(artifacts)): path.read_bytes() for path in paths if path.name != LOCK}


@pytest.mark.parametrize("number", STOPPING)
def test_each_signal_that_ends_a_job_is_a_stop(number: int) -> None:
    def send() -> None:
        with stoppable():
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Stopped) as stop:
            send()
        assert stop.value.number == number
        assert signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        send()
    finally:
        signal.signal(number, before)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_recording_that_a_cluster_ends_says_what_is_kept(number: int, workshop: Workshop) -> None:
    process = started(workshop, *RECORDING)
    wait_for(process, lambda: len([*workshop.artifacts.glob("activations/*/*.safetensors")]) > 3)
    assert str(workshop.artifacts) in stopped(process, number)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").is_file(), reason="counts processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_distributed_fit_that_is_stopped_leaves_no_process(number: int, workshop: Workshop) -> None:
    process = started(workshop, *MANY, "fit.epochs=400", "trainer=ddp_cpu", "evaluation.untrained_draws=0")
    try:
        wait_for(process, lambda: bool([*workshop.artifacts.glob("maps/*/checkpoints/last.ckpt")]))
        ranks = processes_of(workshop.folder)
        assert len(ranks) == 2
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)  # the pipe closes with the last process
        if number == signal.SIGKILL:
            assert process.returncode == -number
        else:
            assert process.returncode == 128 + number, output
            assert output.count("stopped.") == 1
            assert "Traceback" not in output
        assert not processes_of(workshop.folder)
    finally:
        for rank in processes_of(workshop.folder):
            os.kill(rank, signal.SIGKILL)


@pytest.mark.slow
def test_a_recording_that_is_stopped_says_what_is_kept_and_goes_on(workshop: Workshop) -> None:
    process = started(workshop, *RECORDING)
    wait_for(process, lambda: len([*workshop.artifacts.glob("activations/*/*.safetensors")]) > 3)
    output = stopped(process)
    assert "stopped." in output
    assert str(workshop.artifacts) in output
    shards = workshop.files("activations")
    assert not [path for path in shards if path.name == "manifest.json"], "stopped too late to test anything"
    assert workshop.train(*RECORDING).code == 0
    after = workshop.files("activations")
    # finished shards were not written again, but for the one whose place in the journal was under way
    again = [p.name for p, at in shards.items() if p.suffix == ".safetensors" and after[p] != at]
    assert len(again) <= 1


@pytest.mark.slow
def test_a_fit_that_is_stopped_ends_with_the_weights_of_one_that_was_not(
    workshop: Workshop, tmp_path: Path
) -> None:
    whole = Workshop(workshop.pair, tmp_path / "whole")
    assert whole.train(*MANY).code == 0
    process = started(workshop, *MANY)
    wait_for(process, lambda: bool([*workshop.artifacts.glob("maps/*/checkpoints/last.ckpt")]))
    stopped(process)
    assert not [*workshop.artifacts.glob("maps/*/mapping.json")], "stopped too late to test anything"
    assert workshop.train(*MANY).code == 0
    name = "mapping.safetensors"
    one, other = (w.one(f"maps/*/{name}").read_bytes() for w in (whole, workshop))
    assert one == other


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_as_one_that_was_not(workshop: Workshop, tmp_path: Path) -> None:
    whole = Workshop(workshop.pair, tmp_path / "whole")
    assert whole.train(*MANY, "evaluate=true").code == 0
    draw, kills = random.Random(0), 0
    for _ in range(8):
        process = started(workshop, *MANY, "evaluate=true")
        try:
            process.communicate(timeout=draw.uniform(5, 14))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:
            break
    assert kills >= 2
    assert workshop.train(*MANY, "evaluate=true").code == 0
    kinds = ("activations", "states", "moments")
    assert kept(workshop.artifacts, *kinds) == kept(whole.artifacts, *kinds)
    for name in ("maps/*/mapping.safetensors", "measurements/french-*.jsonl"):
        assert workshop.one(name).read_bytes() == whole.one(name).read_bytes()
    assert not [path for path in workshop.artifacts.rglob("*.tmp-*") if "activations" in str(path)]
