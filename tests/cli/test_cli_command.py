"""From the command line to `main`: messages or tracebacks, exit codes, folders."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from running import Ran, run_main

from lrt.errors import InvalidValue, UserError


def raising(error: BaseException) -> Callable[[DictConfig], Any]:
    def main(config: DictConfig) -> None:
        del config
        raise error

    return main


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ran]:
    def run(main: Callable[[DictConfig], Any], *overrides: str) -> Ran:
        return run_main(main, "train", f"hydra.run.dir={tmp_path / 'run'}", *overrides)

    return run


@pytest.mark.parametrize(
    "error",
    [
        UserError("layers.source=9: give [0] or [1]"),
        InvalidValue("layers.source=9: give [0] or [1]"),
        OSError(errno.ENOSPC, "No space left on device", "layers.source=9: give [0] or [1]"),
        PermissionError(errno.EACCES, "Permission denied", "layers.source=9: give [0] or [1]"),
    ],
    ids=["user error", "invalid value", "full disk", "no permission"],
)
def test_what_a_user_can_fix_is_one_message(run: Callable[..., Ran], error: Exception) -> None:
    ran = run(raising(error))
    assert ran.code == 1
    assert "Traceback" not in ran.output
    assert "layers.source=9: give [0] or [1]" in ran.line
    assert "HYDRA_FULL_ERROR=1" in ran.line


@pytest.mark.parametrize(
    "error",
    [
        ValueError("zip() argument 2 is shorter"),
        AssertionError("an invariant"),
        OSError(errno.EIO, "Input/output error"),
        FileNotFoundError(errno.ENOENT, "No such file"),
    ],
    ids=["value error", "assertion", "broken disk", "missing file"],
)
def test_a_fault_of_the_program_keeps_its_traceback(run: Callable[..., Ran], error: Exception) -> None:
    ran = run(raising(error))
    assert ran.code != 0
    assert "Traceback" in ran.output
    assert type(error).__name__ in ran.output
    assert "test_cli_command.py" in ran.output  # where it was raised
    assert "error:" not in ran.output.splitlines()[0]


def test_the_traceback_of_a_users_error_on_demand(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError, match="on demand"):
        run(raising(UserError("on demand")))


def test_ctrl_c_says_what_is_kept_and_exits_with_130(run: Callable[..., Ran], tmp_path: Path) -> None:
    def as_lightning_does(config: DictConfig) -> None:
        del config
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904  (its context is what is looked at)

    for main in (raising(KeyboardInterrupt()), as_lightning_does):
        ran = run(main, f"paths.artifacts={tmp_path}")
        assert ran.code == 130
        assert "Traceback" not in ran.output
        assert str(tmp_path) in ran.line
        assert "The same command continues" in ran.line


def test_an_exit_of_its_own_stays_as_it_is(run: Callable[..., Ran]) -> None:
    assert run(raising(SystemExit(5))).code == 5


def test_an_old_name_ends_the_command_before_hydra_composes(run: Callable[..., Ran]) -> None:
    ran = run(raising(AssertionError("not reached")), "evaluation.probe.every=3")
    assert ran.code == 1
    assert "evaluation.probe.every is now evaluation.during_training.points" in ran.line
    assert "Traceback" not in ran.output


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("nonsense=1", "nonsense"),
        ("map=linear", "orthogonal_penalty"),
        ("layers.source=[1", "'[1'"),
    ],
)
def test_hydra_names_what_it_cannot_compose(run: Callable[..., Ran], override: str, named: str) -> None:
    ran = run(raising(AssertionError("not reached")), override)
    assert ran.code == 1
    assert named in ran.output
    assert "AssertionError" not in ran.output


@pytest.mark.parametrize(
    ("name", "overrides", "folder"),
    [("train", (), "train"), ("evaluate", (), "evaluate"), ("train", ("debug=default",), "debug")],
)
def test_the_run_folder_is_named_by_the_task(
    name: str, overrides: tuple[str, ...], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places: list[Path] = []

    def main(config: DictConfig) -> None:
        del config
        places.append(Path(HydraConfig.get().runtime.output_dir))

    assert run_main(main, name, *overrides).code == 0
    assert places[0].parent == tmp_path / "outputs" / folder
    assert (places[0] / ".hydra" / "config.yaml").is_file()


def test_a_multirun_runs_the_other_jobs_and_exits_with_1(tmp_path: Path) -> None:
    seeds: list[int] = []

    def main(config: DictConfig) -> float:
        seeds.append(config.seed)
        if config.seed == 1:
            raise UserError("seed=1: not this one")
        return float(config.seed)

    ran = run_main(main, "train", "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}")
    assert seeds == [1, 2]
    assert ran.code == 1
    assert "seed=1: not this one" in ran.line
    assert "Traceback" not in ran.output


def test_configs_of_ones_own_are_added_beside_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "mine.yaml").write_text("name: mine\nsource: {path: A}\ntarget: {path: B}\n")
    names: list[str] = []

    def main(config: DictConfig) -> None:
        names.append(config.pair.name)

    out = f"hydra.run.dir={tmp_path / 'run'}"
    assert run_main(main, "train", "--config-dir", str(tmp_path), "pair=mine", out).code == 0
    assert names == ["mine"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"# @package _global_\nseed: [\n", "line 3"),
        (b"# @package _global_\nseed: 1\nseed: 2\n", "line 3"),
        (b"# @package _global_\nseed: \xe9\n", "line 2"),
        (b"# @package _global_\nseed: 1\0\n", "line 2"),
        (b"\xef\xbb\xbf# @package _global_\nseed: 1\n", "byte order mark"),
        ("# @package _global_\nseed: 1\n".encode("utf-16"), "UTF-16"),
        (b"# @package _global_\nx: " + b"[" * 3000, "nested"),
    ],
    ids=["cut", "twice", "not UTF-8", "NUL", "mark", "UTF-16", "deep"],
)
@pytest.mark.slow
def test_a_config_file_that_cannot_be_read_is_named(content: bytes, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "experiment" / "own.yaml"
    file.parent.mkdir()
    file.write_bytes(content)
    ran = run_main(lambda _: None, "train", "--config-dir", str(tmp_path), "experiment=own")
    assert ran.code == 1
    assert "Traceback" not in ran.output
    assert str(file) in ran.output.replace("\n", "")
    assert fault in ran.output
