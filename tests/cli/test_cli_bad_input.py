"""What a user can get wrong through the whole command: exit code 1, one message, nothing costly before it.

Faults of the config itself are in tests/config; these need the models, the text or the artifacts.
"""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from running import Ran, Workshop, run_apart
from safetensors.torch import load_file, save_file
from whole_run import WholeRun


def refused(ran: Ran, *named: str) -> None:
    """The run ended as a mistake of its user's does, and the message names these values."""
    assert ran.code == 1, ran.output
    assert "Traceback" not in ran.output
    for each in named:
        assert each in ran.line, ran.output


def nothing_costly(workshop: Workshop) -> None:
    made = [p for kind in ("activations", "maps", "moments", "states") for p in workshop.files(kind)]
    assert made == []


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("layers.source=3",), ("layers.source=3", "little")),
        (("layers.source=[0.4,1]",), ("layers.source=[0.4, 1]",)),
        (
            ("evaluation.during_training.behaviours=[dogs]",),
            ("during_training.behaviours", "'dogs'", "bravery"),
        ),
        (("fit.optimizer=Sgd",), ("fit.optimizer", "Sgd")),
        (("+trainer.max_epochs=3",), ("trainer.max_epochs", "fit.epochs")),
        (("trainer.precision=13",), ("trainer.precision=13",)),
        (("+callbacks.EarlyStopping={monitor: a}",), ("callbacks.EarlyStopping", "LearningRateMonitor")),
        (("+callbacks.LearningRateMonitor={every: 3}",), ("callbacks.LearningRateMonitor", "every")),
        (("map=low_rank", "map.rank=33"), ("map.rank", "32 -> 48", "33")),
        (("pair.source.path=/nowhere/at/all",), ("/nowhere/at/all",)),
    ],
)
def test_setting_that_cannot_be_run(
    workshop: Workshop, overrides: tuple[str, ...], named: tuple[str, ...]
) -> None:
    refused(workshop.train(*overrides), *named)
    nothing_costly(workshop)


@pytest.mark.parametrize("content", ["\n\n", "Few words.\n\nAnd a few more.\n"], ids=["none", "short"])
def test_too_little_text(content: str, workshop: Workshop) -> None:
    file = workshop.folder / "corpus.txt"
    file.write_text(content)
    given = ("corpus=text", f"corpus.sources.text.paths=[{file}]", "corpus.context=128")
    refused(workshop.train(*given), "corpus")
    nothing_costly(workshop)


def test_text_file_that_is_missing(workshop: Workshop) -> None:
    refused(workshop.train("corpus=text", "corpus.sources.text.paths=[/nowhere/text]"), "/nowhere/text")
    nothing_costly(workshop)


def test_states_that_are_not_finite(workshop: Workshop, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(workshop.pair / "big", broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("inf")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    refused(workshop.train(f"pair.target.path={broken}"), "broken", "layer 2", "recording.non_finite=exclude")
    assert not list(workshop.artifacts.glob("activations/*/manifest.json"))


def test_disk_too_small(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    refused(workshop.train(), "corpus.tokens", "paths.artifacts")
    assert not list(workshop.artifacts.glob("activations/*/*.safetensors"))


def test_run_folder_that_cannot_be_written(workshop: Workshop) -> None:
    blocked = workshop.folder / "a-file"
    blocked.touch()
    ran = workshop.train(f"hydra.run.dir={blocked / 'below'}")
    assert ran.code == 1
    assert str(blocked) in ran.output


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("pattern", "overrides"),
    [
        ("maps/*/mapping.safetensors", ()),
        ("maps/*/mapping.json", ()),
        ("activations/*/train-00000.safetensors", ("map=low_rank", "map.rank=4")),
        ("activations/*/manifest.json", ("map=low_rank", "map.rank=4")),
        ("moments/**/*.safetensors", ("map=low_rank", "map.rank=4")),
        ("states/*.safetensors", ("map=low_rank", "map.rank=4")),
    ],
)
@pytest.mark.slow
def test_a_damaged_artifact_is_named(
    pattern: str, overrides: tuple[str, ...], whole_run: WholeRun, workshop: Workshop
) -> None:
    shutil.copytree(whole_run.workshop.artifacts, workshop.artifacts)
    files = [*workshop.artifacts.glob(pattern)]
    assert files
    for file in files:
        cut(file)
    refused(workshop.train(*overrides), str(workshop.artifacts / pattern.split("/")[0]), "delete")


def test_a_damaged_measurement_is_named(whole_run: WholeRun, workshop: Workshop) -> None:
    shutil.copytree(whole_run.workshop.artifacts, workshop.artifacts)
    file = workshop.one("measurements/bravery-*.jsonl")
    cut(file)
    refused(workshop.evaluate(), str(file), "delete")


@pytest.mark.slow
def test_a_mistake_ends_the_process_with_code_1_and_one_message(workshop: Workshop) -> None:
    refused(run_apart("train", *workshop.settings("layers.source=9")), "layers.source=9", "little")
    nothing_costly(workshop)
