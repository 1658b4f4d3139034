"""Composing the shipped config without a command line: in a notebook or a script."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from running import _undone

from lrt.cli.composing import CONF, as_typed, compose_config, register
from lrt.config import ConfigError, read_config


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with _undone():
        yield


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_config_is_composed_as_on_the_command_line(name: str, tmp_path: Path) -> None:
    config = compose_config(name, "experiment=micro", "seed=3")
    read = read_config(config)
    assert (read.task_name, read.seed) == (name, 3)
    assert Path(read.paths.logs).parent == tmp_path / "outputs" / name
    assert Path(read.paths.report).parent == Path(read.paths.logs)
    assert list(HydraConfig.get().overrides.task) == ["experiment=micro", "seed=3"]


def test_configs_of_ones_own_are_found(tmp_path: Path) -> None:
    (tmp_path / "mine" / "pair").mkdir(parents=True)
    (tmp_path / "mine" / "pair" / "own2.yaml").write_text(
        "name: own2\nsource: {path: A}\ntarget: {path: B}\n"
    )
    assert compose_config("train", "pair=own2", folder="mine").pair.name == "own2"


def test_hydra_s_own_compose_serves_without_a_run() -> None:
    HydraConfig.instance().cfg = None
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=["experiment=micro"])
    assert OmegaConf.to_container(config, resolve=True)
    assert read_config(config).paths.report.startswith(read_config(config).paths.logs)


def test_several_sources_are_a_list_of_paths_or_settings() -> None:
    models = "pair.source=[small,{path: other, dtype: bfloat16}]"
    given = "pair=own", models, "pair.target.path=large", "layers.source=[0.5,[1,2]]"
    read = read_config(compose_config("train", *given))
    assert [(each.path, each.dtype) for each in read.pair.sources] == [
        ("small", "auto"),
        ("other", "bfloat16"),
    ]
    assert read.pair.name == "small + other -> large"
    assert read.layers.source == (0.5, (1, 2))
    assert as_typed(HydraConfig.get().overrides.task) == list(given)
    (one, target) = read_config(
        compose_config("train", "pair=own", "pair.source=[a]", "pair.target=b")
    ).pair.by_setting.items()
    assert (one[0], one[1].path, target[1].path) == ("pair.source", "a", "b")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("pair.source=[]",), "at least one"),
        (("pair.source=[a,3]",), r"pair\.source\.1"),
        (("pair.source=[a,{pth: b}]",), r"pair\.source\.1\.pth: unknown"),
        (("pair.source=[a,b]", "pair.reverse=true"), "one target"),
        (("+pair.source.wieghts=random", "pair.source.path=a"), r"pair\.source\.wieghts: unknown"),
        (("pair.source=[a,b]", "layers.source=[[[1]],2]"), r"layers\.source"),
    ],
)
def test_sources_that_cannot_be_read_are_named(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(compose_config("train", "pair=own", "pair.target.path=c", *overrides))
