"""train.py and evaluate.py as a whole: steps, what `main` returns, callbacks, checkpoints, debugging."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from running import Ran, Workshop, run_main
from whole_run import WholeRun

import lrt.cli.train as module
from lrt.cli import evaluate


@pytest.fixture
def used(whole_run: WholeRun, workshop: Workshop) -> Workshop:
    """A workshop with the artifacts of the whole run."""
    shutil.copytree(whole_run.workshop.artifacts, workshop.artifacts)
    return workshop


def refused(ran: Ran, *named: str) -> None:
    """The run ended as a mistake of its user's does, and the message names these values."""
    assert ran.code == 1, ran.output
    assert "Traceback" not in ran.output
    for each in named:
        assert each in ran.line, ran.output


def card_of(workshop: Workshop, known: set[Path]) -> dict[str, Any]:
    """The card of the map that a run added."""
    (new,) = set(workshop.artifacts.glob("maps/*/mapping.json")) - known
    card: dict[str, Any] = json.loads(new.read_text())["card"]
    return card


def maps_of(workshop: Workshop) -> set[Path]:
    return set(workshop.artifacts.glob("maps/*/mapping.json"))


def test_seven_numbered_steps_say_what_and_how_much(whole_run: WholeRun) -> None:
    steps = [line for line in whole_run.ran.output.splitlines() if line.startswith("[")]
    assert [step.split("]")[0] for step in steps] == [f"[{n}/7" for n in range(1, 8)]
    for phrase in (
        "little -> big",
        "16,384 tokens",
        "2 behaviours",
        "32 -> 48",
        str(whole_run.workshop.report),
    ):
        assert phrase in whole_run.ran.line


def test_main_returns_the_metric_that_a_sweeper_optimises(whole_run: WholeRun) -> None:
    outcome = json.loads((whole_run.folder / "outcome.json").read_text())
    assert whole_run.returned == outcome["fvu"]
    assert isinstance(whole_run.returned, float)
    assert set(outcome["ratios"]) == {"french", "bravery"}


def test_the_page_and_the_callbacks_metrics_are_written(whole_run: WholeRun) -> None:
    assert (whole_run.workshop.report / "index.html").is_file()
    assert "lr-SGD" in (whole_run.folder / "csv" / "metrics.csv").read_text().splitlines()[0]


def test_evaluate_measures_with_the_fitted_map(used: Workshop) -> None:
    results: list[Any] = []

    def keeping(config: DictConfig) -> None:
        results.append(evaluate.main(config))

    before = used.files("maps")
    ran = run_main(keeping, "evaluate", *used.settings("optimized_metric=ratios.nobody"))
    assert ran.code == 1
    assert "optimized_metric=ratios.nobody" in ran.line
    assert "Traceback" not in ran.output
    assert (used.report / "results.json").is_file()  # it was finished before
    assert used.files("maps") == before
    ran = run_main(keeping, "evaluate", *used.settings())
    assert (ran.code, results) == (0, [None])


@pytest.mark.slow
def test_evaluate_without_a_map_prints_the_line_that_makes_it(workshop: Workshop) -> None:
    given = workshop.settings("pair.name='a pair'")
    ran = run_main(evaluate.main, "evaluate", *given)
    assert ran.code == 1
    (line,) = [line for line in ran.output.splitlines() if "python train.py" in line]
    copied = shlex.split(line[line.index("python train.py") :])
    assert copied == ["python", "train.py", *(word for word in given if not word.startswith("hydra."))]
    assert not workshop.files("activations")


# -- ckpt_path ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fit_starts_from_a_checkpoint(used: Workshop) -> None:
    known = maps_of(used)
    first = json.loads(next(iter(known)).read_text())["card"]
    last = used.one("maps/*/checkpoints/last.ckpt")
    ran = used.train("fit.epochs=2", f"ckpt_path={last}")
    assert ran.code == 0, ran.output
    card = card_of(used, known)
    # the first epoch is that of the checkpoint, and only the second one was trained
    assert card["steps"] == 2 * first["steps"]
    assert min(step for step, _ in card["training"]["train"]) >= first["steps"]


@pytest.mark.slow
def test_a_checkpoint_that_is_missing_or_damaged_is_named(used: Workshop) -> None:
    damaged = used.folder / "damaged.ckpt"
    damaged.write_bytes(b"nothing")
    for path in (used.folder / "missing.ckpt", damaged):
        ran = used.train(f"ckpt_path={path}", "fit.epochs=3")
        assert ran.code == 1
        assert "Traceback" not in ran.output
        assert str(path) in ran.line


# -- debugging ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    ["default", *(pytest.param(each, marks=pytest.mark.slow) for each in ("limit", "overfit", "profiler"))],
)
def test_debugging_runs(option: str, used: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    known = maps_of(used)
    more = ("evaluation.during_training.behaviours=[]",)  # steering after every few steps takes the time
    if option == "limit":  # a twentieth of a micro run's batches is less than one
        refused(used.train("debug=limit", *more), "limit_val_batches")
        more += tuple(f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test"))
    ran = used.train(f"debug={option}", *more)
    assert ran.code == 0, ran.output
    steps = card_of(used, known)["steps"]
    assert steps == {"default": 8, "limit": 1, "overfit": 60, "profiler": 8}[option]
    if option == "profiler":
        assert "run_training_epoch" in caplog.text  # Lightning logs it


# -- errors within a run -----------------------------------------------------------------------------


def test_a_fault_of_a_stage_keeps_its_traceback(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("zip() argument 2 is shorter than argument 1")

    monkeypatch.setattr(module, "needed_contrasts", broken)
    ran = workshop.train()
    assert ran.code != 0
    assert "Traceback" in ran.output
    assert "zip() argument 2 is shorter" in ran.output
    assert "in broken" in ran.output


def test_the_shipped_settings_of_a_gpu_need_one(workshop: Workshop) -> None:
    ran = workshop.train("trainer=gpu", "corpus.tokens.train=4096")
    if torch.cuda.is_available():
        assert ran.code == 0, ran.output
    else:
        refused(ran, "trainer.accelerator=gpu")
