"""Every command of the README and the docs runs, with micro settings and outputs kept apart."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    found = [match for page in PAGES for match in fenced.findall(page.read_text())]
    return [text for tag, text in found if tag == language]


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


def runs() -> list[str]:
    """The train.py and evaluate.py lines that name no file of the reader's own."""
    return [c for c in commands() if c.startswith("python ") and "SMALL" not in c and "..." not in c]


def micro(command: str, folder: Path) -> list[str]:
    words = [w for w in shlex.split(command)[1:] if not w.startswith(("experiment=", "fit.epochs="))]
    words = ["logging.mode=offline" if w == "logging.mode=online" else w for w in words]
    return [
        sys.executable,
        *words,
        "experiment=micro",
        f"paths.artifacts={folder}/artifacts",
        f"paths.report={folder}/report",
        f"hydra.run.dir={folder}/run",
        f"hydra.sweep.dir={folder}/sweep",
    ]


def run(command: str, folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        micro(command, folder), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, with the map that evaluate.py asks for, whatever order the tests run in."""
    made = tmp_path_factory.mktemp("readme")
    run("python train.py", made)
    return made


@pytest.mark.xdist_group("readme")
@pytest.mark.parametrize("command", runs())
def test_command_runs(command: str, folder: Path) -> None:
    run(command, folder)
    if "evaluate.py" in command:
        assert (folder / "report" / "index.html").is_file()


def test_there_are_commands_to_run() -> None:
    assert len(runs()) >= 5


def test_every_make_target_named_is_there() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+(?:-[a-z]+)?)", text))
    assert named <= targets, named - targets
    assert {"reproduce", "test", "check", "sweep", "lab", "bench", "clean", "help"} <= targets


def test_every_file_of_the_layout_is_there() -> None:
    layout = next(block for block in blocks("") if "train.py  " in block)
    for line in layout.splitlines():
        name = line.split()[0]
        assert any((base / name).exists() for base in (ROOT, ROOT / "lrt")), name


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
