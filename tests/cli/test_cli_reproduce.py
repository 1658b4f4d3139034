"""`lrt reproduce`: every setting from end to end on stand-ins, and what is said before a real run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from running import composed
from typer.testing import CliRunner

from lrt.cli import reproduce as module
from lrt.cli.app import app
from lrt.cli.reproduce import needs, stand_ins
from lrt.config import Config, read_config
from lrt.errors import InvalidValue
from lrt.evaluation.stand_in_sets import SETS
from lrt.lab.stand_ins import SHAPES
from lrt.report.papers import SETTINGS, papers_page


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_runs_dry_and_leaves_one_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a network, whatever is asked of the hub fails
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["reproduce", name, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert done.output.count("numbers mean nothing") == 2
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}-dry-run.json"]
    record = json.loads((tmp_path / f"{name}-dry-run.json").read_text())
    real = read_config(composed("train", f"experiment={name}"))
    for side in ("source", "target"):
        shape, model = SHAPES[getattr(real.pair, side).path], record["pair"][side]
        assert model["depth"] == shape.depth
        assert model["parameters"] < 13_000_000
    assert (record["setting"], record["dry_run"]) == (name, True)
    for each in record["behaviours"]:
        assert each["items"] == module.SMALL_SUITE["test"]
        assert {"native", "transferred", "ratio", "nulls", "dose"} <= set(each)
    with pytest.raises(InvalidValue, match="dry run"):
        papers_page({"sent": record})


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_dry_run_names_nothing_of_the_hub(name: str, tmp_path: Path) -> None:
    config = composed("train", f"experiment={name}", "evaluate=true")

    def written(hub_id: str, folder: Path, seed: int = 0) -> Path:  # noqa: ARG001
        assert hub_id in SHAPES
        return folder / hub_id.replace("/", "-")

    with (
        mock.patch("lrt.lab.stand_ins.write_stand_in", written),
        mock.patch.dict("lrt.evaluation.stand_in_sets.SETS", {name: lambda folder: folder for name in SETS}),
    ):
        overrides = stand_ins(config, tmp_path)
    dry = composed("train", f"experiment={name}", "evaluate=true", *overrides)
    text = json.dumps(_places(dry))
    assert not [hub_id for hub_id in (*SETS, *SHAPES) if hub_id in text]
    assert read_config(dry).corpus.tokens.train < 20_000
    # the rest is the setting's own
    assert (dry.layers, dry.map, dry.fit) == (config.layers, config.map, config.fit)


def _places(config: Any) -> Any:
    return {section: str(config[section]) for section in ("pair", "corpus", "suite")}


UNLOCK = ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B")


def gpus(*free: float) -> Any:
    """Pretend GPUs with so many GB free."""
    return mock.patch.multiple(
        module,
        _gpus=lambda: [int(each * 1e9) for each in free],
    )


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(composed("train", "experiment=unlock_svamp"))


def test_a_run_that_does_not_fit_is_refused_before_it_starts(config: Config) -> None:
    # 1.54 and 7.62 billion parameters of two bytes
    with gpus(40.0):
        assert "18.3 GB" in needs(config, *UNLOCK)
    with gpus(20.0, 16.0), pytest.raises(InvalidValue, match=r"18\.3 GB.*20 GB free.*device_map=auto"):
        needs(config, *UNLOCK)
    target = replace(config.pair.target, device_map="auto")
    spread = replace(config, pair=replace(config.pair, target=target))
    with gpus(20.0, 16.0):
        assert "36 GB free" in needs(spread, *UNLOCK)
    with gpus(), pytest.raises(InvalidValue, match=r"no GPU here.*--dry-run"):
        needs(config, *UNLOCK)


def test_the_estimate_counts_what_both_models_read(config: Config) -> None:
    # 2 x (7.62 + (1 + draws) x 1.54) billion operations a token, 1e14 a second
    for draws, hours in ((0, "51"), (2, "68")):
        tokens = replace(config.corpus.tokens, train=10**9 - 2 * 12_000)
        some = replace(
            config,
            corpus=replace(config.corpus, tokens=tokens),
            evaluation=replace(config.evaluation, untrained_draws=draws),
        )
        with gpus(80.0):
            assert f"read 1,000,000,000 tokens: at least {hours} h" in needs(some, *UNLOCK)


def test_models_of_unknown_sizes_are_not_compared(config: Config) -> None:
    with gpus(1.0):
        assert "sizes of org/other are not known" in needs(config, "org/other", UNLOCK[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paper"], "no setting 'paper'; allowed: paper_base"),
        (["paper_base", "--output", "missing/file.json"], "folder missing does not exist"),
        (["paper_base", "corpus.token=1"], "do not compose"),
        (["paper_base", "pair.source=[a,b]"], "has one source model"),
    ],
)
def test_what_cannot_run_is_refused(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["reproduce", *words])
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())


def test_torch_is_asked_for_the_gpus() -> None:
    with (
        mock.patch.object(torch.cuda, "device_count", return_value=2),
        mock.patch("lrt.models.hardware.free_bytes", lambda device: 10 + device.index),
    ):
        assert module._gpus() == [10, 11]
