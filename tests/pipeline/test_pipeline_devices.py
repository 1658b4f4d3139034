"""Every stage on one GPU and on two, pretend ones: nothing is on another device than it should be, and the
figures are those of the CPU."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from pretend_devices import pretend_cuda
from running import Workshop
from stages import TRAINER, Stages, corpus

from lrt.config import Layers, PairSettings
from lrt.evaluation import Behaviour, StrengthGrid
from lrt.mapping import FitSpec
from lrt.models import ModelSpec, load
from lrt.pipeline import UntrainedSource, load_pair

SOURCE, TARGET = "cuda:1", "cuda:0"
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_JOB_NAME": "fit",
    "SLURM_JOB_ID": "7",
    "SLURM_NODELIST": "node1",
}
WHOLE: dict[str, Any] = {
    "fit": FitSpec(epochs=1),
    "layers": Layers((0, 1), (2, 3)),
    "analysis__rank_curve": True,
    "analysis__atlas": True,
    "analysis__many_to_one": True,
    "analysis__fidelity_tokens": 128,
    "sae__features": 24,
    "sae__k": 4,
    "sae__s2l": "trained",
    "sae__kind": "jumprelu",
    "evaluation__resampled_draws": 2,
}
QUICK: dict[str, Any] = {
    "fit": FitSpec(epochs=1),
    "corpus": corpus(train=2048, held_out=512),
    "recording__source": (),
    "recording__target": (),
    "analysis__fidelity_tokens": 64,
    "analysis__fidelity_kinds": ("full",),
    "analysis__stitching_depths": False,
    "sae__features": 16,
    "sae__k": 4,
    "sae__tokens": 1024,
    "evaluation__grid": StrengthGrid(strengths=(0.0, 1.0)),
    "evaluation__random_draws": 1,
    "evaluation__shuffled_draws": 1,
    "evaluation__resampled_draws": 0,
}


def figures(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in results, by their paths."""
    match value:
        case dict():
            for key, inner in value.items():
                if key not in ("seconds", "provenance", "features"):
                    yield from figures(inner, f"{path}/{key}")
        case list():
            for index, inner in enumerate(value):
                yield from figures(inner, f"{path}/{index}")
        case bool():
            pass
        case int() | float():
            yield path, float(value)


def little(behaviour: Behaviour) -> Behaviour:
    return replace(
        behaviour,
        development=behaviour.development[:2],
        test=behaviour.test[:2],
        damage_texts=behaviour.damage_texts[:2],
        max_new_tokens=2,
    )


def compare(on_cpu: Stages, pair_folder: Path, places: tuple[str, str], folder: Path) -> None:
    expected = dict(figures(on_cpu.but(folder=folder / "cpu").results()))
    with pretend_cuda(2):
        specs = (
            ModelSpec(path=str(pair_folder / name), device=device, dtype="float32")
            for name, device in zip(("little", "big"), places, strict=True)
        )
        pair = load_pair(PairSettings("tiny", *specs), folder / "cache")
        trainer = TRAINER | {"accelerator": "gpu", "devices": [0]}
        results = on_cpu.but(pair=pair, folder=folder / "gpu", trainer=trainer).results()
    assert "notes" not in results  # an analysis that fails is noted
    assert results["sae"]["steering"]
    found = dict(figures(results))
    assert found.keys() == expected.keys()
    wrong = {
        path: (found[path], value)
        for path, value in expected.items()
        if found[path] != pytest.approx(value, rel=1e-2, abs=1e-3)
    }
    assert not wrong


@pytest.mark.slow
def test_stages_on_two_devices_compute_the_cpus_figures(
    shared: Stages, pair_folder: Path, tmp_path: Path
) -> None:
    suite = tuple(map(little, shared.suite))
    compare(shared.but(suite=suite, **QUICK), pair_folder, (SOURCE, TARGET), tmp_path)


SINGLE = {"accelerator": "gpu", "devices": 1}
DDP = {"accelerator": "gpu", "strategy": "ddp", "devices": 4}


@pytest.mark.parametrize(
    ("trainer", "variables", "own"),
    [
        (SINGLE, {}, 0),
        (SINGLE, {"LOCAL_RANK": "3"}, 0),  # left over: the fit has one process
        (SINGLE | {"devices": [2]}, {}, 2),
        (DDP, {}, 0),
        (DDP, {"LOCAL_RANK": "3"}, 3),
        (DDP | {"devices": [1, 3]}, {"LOCAL_RANK": "1"}, 3),
        (DDP | {"devices": "1,3"}, {"LOCAL_RANK": "1"}, 3),
        (DDP, SLURM | {"SLURM_LOCALID": "2", "SLURM_PROCID": "2", "SLURM_NODEID": "0"}, 2),
        (
            DDP | {"devices": 2, "num_nodes": 2},
            SLURM
            | {
                "SLURM_NTASKS_PER_NODE": "2",
                "SLURM_LOCALID": "1",
                "SLURM_PROCID": "3",
                "SLURM_NODEID": "1",
            },
            1,
        ),
        (DDP | {"accelerator": "cpu", "devices": 6}, {"LOCAL_RANK": "5"}, 1),
    ],
)
def test_each_process_has_the_device_of_its_part_of_the_fit(
    trainer: dict[str, Any],
    variables: dict[str, str],
    own: int,
    shared: Stages,
    pair_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    with pretend_cuda(4):
        shared.but(trainer=trainer).fit_settings.use_own_device()
        lm = load(ModelSpec(path=str(pair_folder / "little")))
        assert lm.device == torch.device("cuda", own)


@pytest.mark.slow
@pytest.mark.parametrize("places", [(TARGET, TARGET), (SOURCE, TARGET)], ids=["one device", "two devices"])
def test_every_stage_and_analysis_on_devices_computes_the_cpus_figures(
    places: tuple[str, str],
    shared: Stages,
    untrained: UntrainedSource,
    pair_folder: Path,
    tmp_path: Path,
) -> None:
    stages = shared.but(**WHOLE, untrained=(untrained,), evaluation__untrained_draws=1)
    compare(stages, pair_folder, places, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("pair.source.device=cuda:1", "fit=closed_form")])
def test_train_on_a_device(more: tuple[str, ...], workshop: Workshop) -> None:
    with pretend_cuda(2) as copies:
        ran = workshop.train(
            "trainer.accelerator=gpu",
            "evaluate=true",
            "analysis.fidelity_tokens=512",
            # the penalised kind's tensors are made by autograd, which takes a pretend GPU for the CPU
            "analysis.fidelity_kinds=[full,low_rank,orthogonal]",
            "analysis.sae.features=32",
            "analysis.sae.k=4",
            "analysis.sae.behaviours=[french]",
            *more,
        )
    assert ran.code == 0, ran.output
    assert copies["to cuda"] > 100
    results = json.loads((workshop.report / "results.json").read_text())
    assert "notes" not in results
    assert {"fidelity", "sae"} <= results.keys()
