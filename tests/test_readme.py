"""Every command of the README and the docs runs, with micro settings and outputs kept apart."""

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from running import run_apart, run_here

from lrt.lab.grammar import pages
from lrt.lab.shelf import folder_of

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


def micro(command: str, folder: Path, experiment: str = "micro") -> list[str]:
    """The command's words behind `python`, made small and led to a folder."""
    words = [w for w in shlex.split(command)[1:] if not w.startswith("experiment=")]
    if experiment == "micro":
        words = [w for w in words if not w.startswith("fit.epochs=")]
    words = ["logging.mode=offline" if w == "logging.mode=online" else w for w in words]
    return [
        *words,
        *([f"experiment={experiment}"] if experiment else []),
        f"paths.artifacts={folder}/artifacts",
        f"paths.report={folder}/report",
        f"hydra.run.dir={folder}/run",
        f"hydra.sweep.dir={folder}/sweep",
    ]


def run(command: str, folder: Path, experiment: str = "micro") -> None:
    """Through the program's real entry point, but for the start of a process, which is half of its time."""
    program, *overrides = micro(command, folder, experiment)
    done = run_here(program.removesuffix(".py"), *overrides)
    assert done.code == 0, done.told[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, with the map that evaluate.py asks for, whatever order the tests run in."""
    made = tmp_path_factory.mktemp("readme")
    done = run_apart("train", *micro("python train.py", made)[1:])  # one as its reader starts it
    assert done.code == 0, done.told[-3000:]
    return made


@pytest.mark.xdist_group("readme")
@pytest.mark.parametrize("command", runs())
def test_command_runs(command: str, folder: Path) -> None:
    run(command, folder)
    if "evaluate.py" in command:
        assert (folder / "report" / "index.html").is_file()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the page on own pairs has its reader put in, and the reader's own files for it."""
    made = tmp_path_factory.mktemp("own")
    texts = made / "texts"
    texts.mkdir()
    written = itertools.islice(pages(11, "held_out"), 900)
    (texts / "mine.txt").write_text("\n\n".join(page.text for page in written))
    (example,) = blocks("json")
    behaviour = made / "mine.json"
    behaviour.write_text(json.dumps(json.loads(example)))
    return {
        "SMALL": str(folder_of("tiny")),
        "LARGE": str(folder_of("small")),
        "my_texts/": str(texts),
        "my_behaviour.json": str(behaviour),
        "trainer=gpu": "trainer=default",  # there is none here; tests/runtime binds its settings
    }


@pytest.mark.xdist_group("readme")
def test_the_commands_for_an_own_pair_run(own: dict[str, str], tmp_path: Path) -> None:
    (train,) = (c for c in commands() if "SMALL" in c)
    for reader, ours in own.items():
        train = train.replace(reader, ours)
    # what experiment=micro makes small, but for the storybook's own suite
    more = (
        "corpus.tokens.train=8192 corpus.tokens.validation=2048 corpus.tokens.test=2048 corpus.context=128 "
        "fit.epochs=1 batches.rows=64 evaluation.random_draws=2 evaluation.shuffled_draws=1 "
        "evaluation.resampled_draws=2 evaluation.folds=2"
    )
    for command in (train, f"python evaluate.py {train.removeprefix('python train.py ')}"):
        run(f"{command} {more}", tmp_path, experiment="")
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [b["name"] for b in report["behaviours"]] == ["formal"]

    (snippet,) = blocks("python")
    (vector,) = (tmp_path / "artifacts" / "maps").glob("*/vectors/formal/transferred/layer-*")
    named = re.sub(r"artifacts/maps/FINGERPRINT/[^\"]*", str(vector), snippet)
    assert named != snippet
    printed = named.replace("path/to/large", own["LARGE"]) + "print(lm.tokenizer.decode(ids[0]))\n"
    done = subprocess.run([sys.executable, "-c", printed], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Once" in done.stdout


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
