"""What is known to be wrong is reported before anything costly: each check once, on a tiny pair."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Workshop, composed
from stages import Stages
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from upstream_files import gemma_scope

from lrt.config import Batches, Config, ConfigError, read_config
from lrt.errors import UserError
from lrt.evaluation import Behaviour
from lrt.mapping import (
    AffineMap,
    ClosedFormSpec,
    FitSpec,
    MapCorrupt,
    MapForeign,
    MapMissing,
    MapSpec,
    save_map,
)
from lrt.models.sides import SIDES
from lrt.pipeline import FitSettings, ModelPair, PairModel, check_run, plan_layers
from lrt.pipeline.map_training import check_trainer

Check = Callable[..., None]


@pytest.fixture(scope="module")
def config(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """experiment=micro on the tiny pair, composed once; the tests replace parts of it."""
    settings = Workshop(pair_folder, tmp_path_factory.mktemp("nowhere")).settings(
        "evaluation.during_training.behaviours=[]", "fit=closed_form", "analysis.sae.behaviours=[]"
    )
    return read_config(composed("train", *settings))


def changed(config: Any, path: str, value: Any) -> Any:
    """The config with another value at a path."""
    name, _, rest = path.partition(".")
    if isinstance(config, dict):
        return {**config, name: changed(config[name], rest, value) if rest else value}
    return replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


@pytest.fixture
def check(config: Config, tiny_pair: ModelPair, tiny_suite: tuple[Behaviour, ...]) -> Check:
    def run(changes: dict[str, Any], pair: ModelPair = tiny_pair, fits: bool = True) -> None:
        settings = config
        for path, value in changes.items():
            settings = changed(settings, path, value)
        fit = FitSettings(
            settings.map,
            settings.fit,
            settings.batches,
            settings.trainer,
            settings.callbacks,
            settings.ckpt_path,
            settings.seed,
        )
        layers = plan_layers(settings.layers, settings.recording, pair)
        check_run(settings, fit, pair, tiny_suite, layers, fits=fits)

    return run


ON_THE_FLY = {"recording.states": "none", "evaluation.untrained_draws": 0}
TWO_PROCESSES = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
AUTO = {
    "layers.source": "auto",
    "layers.target": "auto",
    "recording.source": "all",
    "recording.target": "all",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        ON_THE_FLY,
        {**ON_THE_FLY, "fit": FitSpec()},
        AUTO,
        {"callbacks": {"Timer": {}}},
        {"corpus.sources.stories.fit_map_for": ("french",)},
    ],
)
def test_what_can_be_run_passes(check: Check, changes: dict[str, Any]) -> None:
    check(changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        # map and fit
        ({"map.kind": "low_rank", "map.rank": 40}, "map.rank"),
        ({**AUTO, "map.kind": "low_rank", "map.rank": 40}, "map.rank"),
        ({"fit": ClosedFormSpec(solver="identity")}, "fit.solver=identity"),
        ({"fit": ClosedFormSpec(solver="embeddings"), "layers.source": (0, 1)}, "layers.source=[0, 1]"),
        ({"ckpt_path": "no/such.ckpt"}, "ckpt_path=no/such.ckpt"),
        # the Trainer
        ({"fit": FitSpec(), "trainer": {"max_epochs": 3}}, "trainer.max_epochs"),
        ({"trainer": {"logger": False}}, "trainer.logger"),
        ({"trainer": {"epoch": 3}}, "trainer.epoch"),
        ({"trainer": {"devices": 0, "accelerator": "cpu"}}, "trainer.devices=0"),
        ({"callbacks": {"EarlyStopping": {}}}, "callbacks.EarlyStopping"),
        ({"callbacks": {"Timer": {"hours": 3}}}, "callbacks.Timer"),
        ({"callbacks": {"Timer": {"duration": {"hours": 3}}}}, "trainer.max_time"),
        ({"trainer": {"max_time": "three hours"}}, "trainer.max_time=three hours"),
        ({"trainer": {"max_time": 90}}, "trainer.max_time=90"),
        ({"trainer": {"precision": "transformer-engine"}}, "trainer.precision=transformer-engine"),
        ({"trainer": {"accelerator": "tpu"}}, "trainer.accelerator=tpu"),
        ({"trainer": {"plugins": []}}, "trainer.plugins"),
        ({"trainer": {"precision": "bf16-true"}}, "use bf16-mixed"),
        ({"trainer": {"precision": "16-true"}}, "use 16-mixed"),
        ({"trainer": {"precision": "bf8-true"}}, "trainer.precision=bf8-true"),
        # behaviours
        ({"evaluation.behaviours": ("bravry",)}, "evaluation.behaviours"),
        ({"evaluation.during_training.behaviours": ("bravry",)}, "evaluation.during_training.behaviours"),
        ({"corpus.sources.questions.fit_map_for": ("bravry",)}, "corpus.sources.questions.fit_map_for"),
        ({"analysis.sae.behaviours": ("bravry",)}, "analysis.sae.behaviours"),
        # what reads states, where none are kept
        ({**ON_THE_FLY, "fit": FitSpec(), "trainer": TWO_PROCESSES}, "trainer.devices=1"),
        ({**ON_THE_FLY, "fit": FitSpec(), "batches.workers": 2}, "batches.workers=2"),
        ({**ON_THE_FLY, "evaluation.untrained_draws": 1}, "evaluation.untrained_draws=1"),
        ({**ON_THE_FLY, "analysis.fidelity_tokens": 256}, "analysis.fidelity_tokens=256"),
        ({**ON_THE_FLY, "analysis.sae.features": 16}, "analysis.sae"),
        ({**ON_THE_FLY, "layers.target": "auto"}, "layers=auto"),
        # memory
        ({**AUTO, "analysis.memory_gb": 1e-6}, "analysis.memory_gb"),
    ],
)
def test_each_mistake_is_named(check: Check, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as error:
        check(changes)
    assert named in str(error.value)


def test_a_map_that_cannot_be_evaluated_is_refused_before_anything_is_recorded(
    check: Check, config: Config, tiny_pair: ModelPair, tmp_path: Path
) -> None:
    layers = {side: [*getattr(config.layers, side)] for side in SIDES}
    card = {"layers": layers, "models": tiny_pair.described()}
    width = {side: len(layers[side]) * tiny_pair.models[side].width for side in SIDES}
    affine = AffineMap(torch.zeros(width["target"], width["source"]), torch.zeros(width["target"]))
    for name, other in (
        ("own", {}),
        ("layers", {"layers": {**layers, "source": [7]}}),
        ("model", {"models": {**card["models"], "source": {**card["models"]["source"], "identity": {}}}}),
    ):
        save_map(tmp_path / name, affine, card | other)
    check({"evaluation.map": str(tmp_path / "own")}, fits=False)
    for name, error in (("layers", MapForeign), ("model", MapForeign), ("none", MapMissing)):
        with pytest.raises(error):
            check({"evaluation.map": str(tmp_path / name)}, fits=False)
    (tmp_path / "own" / "mapping.safetensors").write_bytes(b"")
    with pytest.raises(MapCorrupt):
        check({"evaluation.map": str(tmp_path / "own")}, fits=False)


def test_a_file_of_no_candidate_layer(check: Check, config: Config, tmp_path: Path) -> None:
    source, target = gemma_scope(tmp_path / "a", 32, 1), gemma_scope(tmp_path / "b", 48, 2)
    sae = replace(config.analysis.sae, source=str(source), target=str(target), features=0)
    check({**AUTO, "analysis.sae": sae})
    with pytest.raises(UserError, match="layer 1"):
        check({**AUTO, "recording.source": (0, 2), "analysis.sae": sae})


def test_models_that_cut_text_otherwise(check: Check, shared: Stages) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    other = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<unk>")
    target = type(shared.pair.target)(shared.pair.target.spec, shared.pair.target.model, other)
    with pytest.raises(UserError, match="token"):
        check({}, replace(shared.pair, models={**shared.pair.models, "target": PairModel.of(target)}))


ONE_TASK = {
    **dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0"),
    **{"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "fit", "SLURM_JOB_ID": "77"},
}
TORCHRUN = {
    **dict.fromkeys(("RANK", "LOCAL_RANK", "ROLE_RANK"), "1"),
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), "2"),
    **{"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "TORCHELASTIC_RESTART_COUNT": "0"},
    **{"TORCHELASTIC_MAX_RESTARTS": "0"},
}
ONE_PROCESS = {"accelerator": "cpu", "devices": 1}


@pytest.mark.parametrize(
    ("environment", "settings", "processes"),
    [
        (ONE_TASK | TORCHRUN, TWO_PROCESSES, 2),
        (ONE_TASK | TORCHRUN | {"SLURM_NTASKS_PER_NODE": "1"}, TWO_PROCESSES, 2),
        (TORCHRUN, TWO_PROCESSES, 2),
        (ONE_TASK | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, TWO_PROCESSES, 2),
        ({"LOCAL_RANK": "1"}, {"accelerator": "cpu", "devices": "auto"}, 1),
        # alone, whatever started it
        *(
            (env, ONE_PROCESS, 1)
            for env in (ONE_TASK, ONE_TASK | {"SLURM_NTASKS": "2"}, TORCHRUN, {"LOCAL_RANK": "1"})
        ),
    ],
)
def test_the_processes_of_a_fit_are_those_that_the_settings_name(
    environment: dict[str, str], settings: dict[str, Any], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert check_trainer(settings, FitSpec()).world_size == processes


@pytest.mark.parametrize(
    "environment",
    [
        ONE_TASK,  # srun started one
        ONE_TASK | {"SLURM_NTASKS_PER_NODE": "1"},
        TORCHRUN | {"WORLD_SIZE": "3"},
        {"LOCAL_RANK": "4"},
    ],
)
def test_another_number_of_processes_is_refused(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"trainer\.devices"):
        check_trainer(TWO_PROCESSES, FitSpec())


def test_devices_that_are_counted_here_are_a_number_in_the_facts() -> None:
    def devices(value: Any) -> Any:
        trainer = {"accelerator": "cpu", "devices": value}
        fit = FitSettings(MapSpec(), FitSpec(), Batches(64, 0, 1024), trainer, {}, None, 0)
        return fit.facts()["trainer"]["devices"]

    assert devices("auto") == devices(1) == 1
    assert devices(2) == 2
