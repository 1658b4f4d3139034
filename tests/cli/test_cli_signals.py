"""Ctrl-C and kills of real processes: what was finished is kept, and the same command goes on."""

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
    "evaluation.untrained_source=false",
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


def stopped(process: subprocess.Popen[str]) -> str:
    """What a process says that was sent Ctrl-C."""
    process.send_signal(signal.SIGINT)
    before = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert time.monotonic() - before < 20  # what is under way gets 3 seconds, and W&B 2
    assert "Traceback" not in output
    return " ".join(output.split())


def kept(artifacts: Path, *kinds: str) -> dict[str, bytes]:
    found = (path for kind in kinds for path in (artifacts / kind).rglob("*") if path.is_file())
    return {str(path.relative_to(artifacts)): path.read_bytes() for path in found}


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
