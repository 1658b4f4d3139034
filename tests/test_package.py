"""The package as `pip install` brings it: everything is in the wheel, and it runs far from the clone."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lrt.lab.grammar import pages
from lrt.lab.lexicon import REFUSAL_OPENINGS
from lrt.lab.shipped import folder_of

ROOT = Path(__file__).parents[1]
Runs = Callable[..., subprocess.CompletedProcess[str]]
MICRO = ("experiment=micro", "logging.mode=disabled")
LITTLE = (
    "corpus.tokens.train=8192",
    "corpus.tokens.validation=2048",
    "corpus.tokens.test=2048",
    "evaluation.untrained_draws=0",
    "evaluation.during_training.behaviours=[]",
)


def pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, which no earlier build has left anything in."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("lrt", "conf", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
        else:
            shutil.copy(ROOT / name, folder / name)
    (folder / "tests").mkdir()
    (folder / "tests" / "test_nothing.py").touch()
    pip(
        "wheel",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder / "dist"),
        str(folder),
    )
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "-q", "--no-index", "--no-deps", "--target", str(folder), str(wheel))
    return folder


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Runs:
    """`python -m lrt WORDS` of the installed package, in an empty folder."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k != "LRT_CACHE"}
        env = clean | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        place = "import lrt; print(lrt.__file__)"
        imported = subprocess.check_output([sys.executable, "-c", place], cwd=tmp_path, env=env, text=True)
        assert imported.startswith(str(installed))  # and not the clone, however it is installed
        done = subprocess.run(
            [sys.executable, "-m", "lrt", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done

    return run


def test_the_wheel_holds_every_module_config_template_and_weight_and_no_test(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "lrt").rglob("*.py")}
    data = {
        str(file.relative_to(ROOT))
        for folder in ("lab/weights", "report/templates")
        for file in (ROOT / "lrt" / folder).rglob("*")
        if file.is_file()
    }
    configs = {
        f"lrt/{file.relative_to(ROOT)}"
        for file in (ROOT / "conf").rglob("*.yaml")
        if "local" not in file.parts
    }
    assert len(modules) > 100
    assert len(data) > 10
    assert len(configs) > 60
    assert (modules | data | configs) - names == set()
    rest = {name for name in names - modules - data - configs if ".dist-info/" not in name}
    assert rest == set()


@pytest.mark.slow
def test_it_runs_far_from_the_clone(run: Runs, tmp_path: Path) -> None:
    help_ = run("--help").stdout
    for command in ("train", "evaluate", "atlas", "record", "pretrain", "verify", "sweep-report"):
        assert command in help_
    done = run("train", *MICRO, *LITTLE, "fit=closed_form")
    assert "[5/5]" in done.stderr
    assert list(tmp_path.glob("artifacts/maps/*/mapping.json"))
    assert list(tmp_path.glob("outputs/train/*/.hydra/config.yaml"))


@pytest.mark.slow
def test_evaluate_and_atlas_run_far_from_the_clone(run: Runs, tmp_path: Path) -> None:
    printed = run("train", "--cfg", "job", "pair=own", "pair.source.path=A", "pair.target.path=B").stdout
    assert "path: A" in printed
    run("train", "experiment=micro", "evaluate=true")
    assert (tmp_path / "report" / "index.html").is_file()
    before = sorted(tmp_path.glob("artifacts/maps/*"))
    run("evaluate", "experiment=micro")
    assert sorted(tmp_path.glob("artifacts/maps/*")) == before
    run("atlas", *MICRO, *LITTLE, "atlas.source=1", "atlas.target=2")
    assert (tmp_path / "report" / "atlas.html").is_file()
    run("verify", "artifacts")


@pytest.mark.slow
def test_the_quick_start_runs_in_an_empty_folder(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word, after `pip install`, by a shell that finds the installed `lrt`."""

    def first_block(page: str) -> list[str]:
        blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
        return blocks[0].splitlines()

    lines = first_block("docs/getting-started.md")
    # what the README shows, with files to go on with
    assert first_block("README.md") == [lines[0], lines[1].removesuffix(" --keep demo")]
    assert lines[0] == "pip install ."
    assert [line.split()[1] for line in lines if line.startswith("lrt ")] == [
        "demo",
        "fit",
        "extract",
        "transfer",
        "steer",
    ]
    program = tmp_path / "bin" / "lrt"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom lrt.cli.app import app\napp(prog_name='lrt')\n")
    program.chmod(0o755)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "200")
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines[1:])], cwd=empty, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr + done.stdout
    steered = done.stdout.splitlines()[-2]
    unsteered, changed = (cell.strip() for cell in steered.strip("│").split("│"))
    assert changed.startswith(REFUSAL_OPENINGS)
    assert not unsteered.startswith(REFUSAL_OPENINGS)
    assert "warning:" not in done.stdout


@pytest.mark.slow
def test_a_users_own_configs_beside_the_shipped_ones(run: Runs, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "pair").mkdir(parents=True)
    (mine / "experiment").mkdir()
    (tmp_path / "text.txt").write_text(
        "\n\n".join(p.text for p in itertools.islice(pages(11, "held_out"), 900))
    )
    (mine / "pair" / "small.yaml").write_text(
        f"name: mine\nsource: {{path: {folder_of('tiny')}}}\ntarget: {{path: {folder_of('small')}}}\n"
    )
    (mine / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - micro\n  - override /pair: small\n  - override /corpus: text\n  - _self_\n"
        "layers: {source: 1, target: 2}\n"
        "corpus:\n  sources: {text: {paths: [text.txt]}}\n  context: 128\n"
    )
    done = run("train", "--config-dir", str(mine), "experiment=mine", *MICRO[1:], *LITTLE)
    assert "tiny -> small" in done.stderr


def test_every_optional_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(extras) == {"gguf", "large", "dashboard", "browser", "dev"}
    lines = text.splitlines()
    for name in extras:
        (at,) = (number for number, line in enumerate(lines) if line.startswith(f"{name} = ["))
        assert lines[at - 1].startswith("# ")
    assert extras["dev"][0] == "lrt[gguf,large,dashboard]"
