"""Two processes on CPUs end with the map that one makes, up to the rounding of another order of sums."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from running import ROOT, Ran, Workshop, run_apart, run_module

from lrt.mapping import load_map

TORCHRUN = ("--standalone", "--nproc-per-node=2", str(ROOT / "train.py"))


@pytest.mark.slow
def test_two_processes_make_the_map_of_one(workshop: Workshop) -> None:
    # two processes of 32 rows make the batches of one of 64
    how = ("fit.epochs=4",)
    one = Workshop(workshop.pair, workshop.folder / "one")
    alone = one.train(*how)
    assert alone.code == 0, alone.output
    # the first process goes on alone where metrics and autoencoders are no longer of both
    alone_after = (
        "evaluate=true",
        "analysis.sae.features=32",
        "analysis.sae.k=4",
        "analysis.sae.behaviours=[]",
    )
    both = run_apart("train", *workshop.settings(*how, "trainer=ddp_cpu", "batches.rows=32", *alone_after))
    assert both.code == 0, both.output

    (expected, card), (found, other) = (load_map(w.one("maps/*")) for w in (one, workshop))
    assert other["steps"] == card["steps"]  # had each read all rows, there would be twice as many
    assert other["rows"] == card["rows"]
    (_, last), (_, other_last) = card["training"]["val"][-1], other["training"]["val"][-1]
    assert other_last == pytest.approx(last, rel=0.02)
    assert other["metrics"]["fvu"] == pytest.approx(card["metrics"]["fvu"], rel=0.02)
    cosine = torch.nn.functional.cosine_similarity(expected.weight.ravel(), found.weight.ravel(), dim=0)
    assert cosine > 0.95
    # the first process alone shows its steps and reports
    assert both.output.count("[1/7]") == 1
    assert both.output.count("report:") == 1
    results = json.loads((workshop.report / "results.json").read_text())
    assert results["behaviours"]
    assert results["sae"]["source"]["fvu"] < 1
    assert len(list(workshop.artifacts.glob("maps/*"))) == 1


@pytest.mark.slow
def test_torchrun_within_a_slurm_job_starts_the_processes_of_one_fit(workshop: Workshop) -> None:
    slurm = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    slurm |= {
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_JOB_NAME": "fit",
        "SLURM_JOB_ID": "77",
    }
    settings = workshop.settings("trainer=ddp_cpu", "batches.rows=32", "evaluation.untrained_draws=0")
    both = run_module("torch.distributed.run", *TORCHRUN, *settings, **slurm)
    assert both.code == 0, both.output
    _, card = load_map(workshop.one("maps/*"))
    alone = Workshop(workshop.pair, workshop.folder / "alone")
    assert alone.train("batches.rows=64", "evaluation.untrained_draws=0").code == 0
    _, expected = load_map(alone.one("maps/*"))
    assert card["steps"] == expected["steps"]
    assert both.output.count("[1/5]") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        lambda *settings: run_apart("train", *settings),
        lambda *settings: run_module("torch.distributed.run", *TORCHRUN, *settings),
    ],
    ids=["by Lightning", "by torchrun"],
)
def test_of_two_distributed_fits_of_a_map_one_waits_and_finds_it(
    start: Callable[..., Ran], workshop: Workshop
) -> None:
    how = ("trainer=ddp_cpu", "fit.epochs=20", "evaluation.untrained_draws=0", "batches.rows=32")
    how = (*how, "evaluation.during_training.behaviours=[]")
    assert (
        workshop.train("fit=closed_form", "evaluation.untrained_draws=0").code == 0
    )  # records: the two meet at the fit
    with ThreadPoolExecutor() as both:
        runs = [both.submit(start, *workshop.settings(*how, run=name)) for name in ("one", "other")]
    ran = [run.result() for run in runs]
    for run in ran:
        assert run.code == 0, run.output
    assert sum("Waiting for another process" in run.line for run in ran) == 1
    assert len([*workshop.artifacts.glob("maps/*/checkpoints/best.ckpt")]) == 1
