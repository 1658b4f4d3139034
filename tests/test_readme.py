"""Every command of the README and the docs runs, with micro settings and outputs kept apart."""

import importlib
import itertools
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from gguf_files import TOKENS, write_gguf
from running import NO_ANALYSIS, composed, run_main, run_module

from lrt.activations import ActivationStore
from lrt.cli.atlas import AtlasSettings
from lrt.cli.composing import CONF
from lrt.cli.record import RecordSettings
from lrt.config import read_config, read_section
from lrt.lab.grammar import Plan, pages
from lrt.lab.shipped import folder_of
from lrt.steering import read_control_vector

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


@dataclass(frozen=True)
class Line:
    """A command line of a page: `python train.py ...`, `lrt train ...` or `python -m lrt train ...`."""

    page: Path
    text: str

    @property
    def words(self) -> list[str]:
        """The command's name, as of its config, and its overrides."""
        name, _, rest = PROGRAM.sub("", self.text).partition(" ")
        return [name.removesuffix(".py"), *shlex.split(SAME_AS_BEFORE.sub(" ", rest))]

    @property
    def is_whole(self) -> bool:
        """Whether it can be run as it is: it names no settings or files of the reader's own."""
        return self.page != REAL and not re.search(r"\.\.\.|\b[A-Z]{4,}\b|\bmy_|<|\[the ", self.text)


PROGRAM = re.compile(r"^(python (-m lrt )?|lrt )(?=\S)")
HYDRA = ("train", "evaluate", "atlas", "record", "pretrain")
SAME_AS_BEFORE = re.compile(r"\.\.\.\S.*?\S\.\.\.|\[the [^]]*\]")
# its commands name models of the hub and files of the reader's
REAL = ROOT / "docs" / "real-pairs.md"
TEMPLATE = ROOT / "docs" / "coming-from-the-template.md"


def blocks(language: str, pages: list[Path] = PAGES) -> list[str]:
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    found = [match for page in pages for match in fenced.findall(page.read_text())]
    return [text for tag, text in found if tag == language]


def lines(page: Path) -> list[Line]:
    """The page's command lines of programs that Hydra configures.

    Those of the library are run by tests/cli/test_cli_library_commands.py and tests/test_package.py.
    """
    shown = [line for block in blocks("sh", [page]) for line in block.replace("\\\n", " ").splitlines()]
    texts = [re.sub(r"\s+#.*", "", line).strip() for line in shown]
    typed = [Line(page, " ".join(text.split())) for text in texts if PROGRAM.match(text)]
    return [line for line in typed if line.words[0] in HYDRA]


LINES = [line for page in PAGES for line in lines(page)]


def named(line: Line) -> str:
    return f"{line.page.stem}: {line.text[:80]}"


def micro(words: list[str], folder: Path, experiment: str = "micro") -> list[str]:
    """Overrides made small and led to a folder."""
    small = ["corpus.tokens.train=8192", *NO_ANALYSIS]
    words = [w for w in words if not w.startswith("experiment=")]
    if experiment == "micro":
        words = [w for w in words if not w.startswith("fit.epochs=")]
    words = ["logging.mode=offline" if w == "logging.mode=online" else w for w in words]
    return [
        *words,
        *([f"experiment={experiment}", *small] if experiment else []),
        f"paths.artifacts={folder}/artifacts",
        f"paths.report={folder}/report",
        f"hydra.run.dir={folder}/run",
        f"hydra.sweep.dir={folder}/sweep",
    ]


def run(words: list[str], folder: Path, experiment: str = "micro") -> None:
    """A command through its real entry point, but for the start of a process, which is half of its time."""
    name, *overrides = words
    main = importlib.import_module(f"lrt.cli.{name}").main
    done = run_main(main, name, *micro(overrides, folder, experiment))
    assert done.code == 0, done.output[-3000:]


WHOLE = [line for line in LINES if line.is_whole]
FIRST = {line.words[0]: line for line in reversed(WHOLE)}
"""The first command line of each program; the others run in `make test-all`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first command of the README leaves, started as its reader starts it: the map that `evaluate`
    needs, whatever order the tests run in."""
    folder = tmp_path_factory.mktemp("readme")
    _, *overrides = FIRST["train"].words
    done = run_module("lrt", "train", *micro(overrides, folder))
    assert done.code == 0, done.output[-3000:]
    return folder


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=[] if line in FIRST.values() else pytest.mark.slow) for line in WHOLE],
    ids=named,
)
def test_a_command_that_names_nothing_of_the_readers_runs(line: Line, folder: Path) -> None:
    page = folder / "report" / "index.html"
    if line != FIRST["train"]:
        page.unlink(missing_ok=True)
        run(line.words, folder)
    if line.words[0] == "evaluate" or line == FIRST["train"]:
        assert page.is_file()


@pytest.mark.parametrize(
    "line", [line for line in LINES if line not in FIRST.values() and "-m" not in line.words], ids=named
)
def test_any_other_command_composes_and_is_valid(line: Line) -> None:
    name, *overrides = line.words
    config = composed(name, *overrides)
    sections = {"record": RecordSettings, "atlas": AtlasSettings}
    if name in sections:
        section, config = read_section(config, name, sections[name])
        assert isinstance(section, sections[name])
    read_config(config)


def test_there_are_commands_to_run() -> None:
    assert sum(line.is_whole for line in LINES) >= 5
    assert {"train", "evaluate"} <= {line.words[0] for line in LINES}


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
        "trainer=gpu": "trainer=default",  # there is none here; tests/config binds its settings
    }


@pytest.mark.slow
def test_the_commands_for_an_own_pair_run(own: dict[str, str], tmp_path: Path) -> None:
    (train,) = (line.text for line in lines(ROOT / "docs" / "own-pair.md") if "SMALL" in line.text)
    for reader, ours in own.items():
        train = train.replace(reader, ours)
    # what experiment=micro makes small, but for the storybook's own suite
    more = (
        "corpus.tokens.train=8192 corpus.tokens.validation=2048 corpus.tokens.test=2048 corpus.context=128 "
        "fit.epochs=1 batches.rows=64 evaluation.random_draws=2 evaluation.shuffled_draws=1 "
        "evaluation.resampled_draws=2 evaluation.folds=2"
    )
    _, *words = Line(REAL, f"{train} {more}").words
    for name in ("train", "evaluate"):
        run([name, *words], tmp_path, experiment="")
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [b["name"] for b in report["behaviours"]] == ["formal"]

    snippet = "\n".join(blocks("python", [ROOT / "docs" / "own-pair.md"]))
    (vector,) = (tmp_path / "artifacts" / "maps").glob("*/vectors/formal/transferred/layer-*")
    named = re.sub(r"artifacts/maps/FINGERPRINT/[^\"]*", str(vector), snippet)
    assert named != snippet
    printed = named.replace("path/to/large", own["LARGE"]) + "print(lm.tokenizer.decode(ids[0]))\n"
    done = subprocess.run(
        [sys.executable, "-c", printed], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Once" in done.stdout
    assert [v.behaviour for v in read_control_vector(tmp_path / "french.gguf")] == ["formal"]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs" / "library.md"], ids=lambda page: page.stem
)
def test_the_examples_of_the_library_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is written, on the shipped models; only the reader's paths and texts are put in."""
    example = "\n".join(blocks("python", [page]))
    for reader, member in (("path/to/small", "tiny"), ("path/to/large", "small")):
        assert reader in example
        example = example.replace(reader, str(folder_of(member)))
    sides = [Plan("story", language=language) for language in ("french", "english")]
    positives, negatives = ([p.text for p in itertools.islice(pages(5, "held_out", s), 24)] for s in sides)
    texts = [page.text for page in itertools.islice(pages(7, "held_out"), 500)]
    monkeypatch.chdir(tmp_path)
    names = {"texts": texts, "positives": positives, "negatives": negatives}
    exec(example, names)
    assert capsys.readouterr().out.strip()
    written = {"README": set(), "library": {"my_map", "my_maps", "my_vector"}}[page.stem]
    assert {each.name for each in tmp_path.iterdir()} == written


@pytest.mark.slow
def test_the_notebook_cell_runs(tmp_path: Path) -> None:
    (cell,) = blocks("python", [TEMPLATE])
    done = subprocess.run([sys.executable, "-c", cell], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "report" / "index.html").is_file()


def test_the_page_names_the_pairs_and_corpora_that_are_shipped() -> None:
    cells = re.findall(r"^\| (`.*?) \|", REAL.read_text(), re.MULTILINE)
    named = set(re.findall(r"`([a-z0-9._-]+)`", " ".join(cells)))
    shipped = {file.stem for group in ("pair", "corpus") for file in (CONF / group).glob("*.yaml")}
    assert named == {name for name in shipped if not name.startswith("storybook")} - {"own"}


def test_the_command_for_gguf_files_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRT_CACHE", raising=False)
    (train,) = (line.text for line in lines(REAL) if "SMALL.gguf" in line.text)
    for name, plan in (
        ("general", Plan("story", language="english")),
        ("french", Plan("story", language="french")),
    ):
        (tmp_path / name).mkdir()
        written = itertools.islice(pages(21, "held_out", plan), 300)
        (tmp_path / name / "mine.txt").write_text("\n\n".join(page.text for page in written))
    requests = [
        {"instruction": f"Name {n} words.", "response": "once " * n, "context": "upon " * (n % 3)}
        for n in range(2, 200)
    ]
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, requests)))
    (example,) = blocks("json")
    (tmp_path / "mine.json").write_text(example)
    # as of a base model: chats are then written in the other's template
    write_gguf(tmp_path / "small.gguf", quantised=True, template=None)
    write_gguf(tmp_path / "large.gguf", quantised=True, seed=1, blocks=4)
    for reader, ours in (
        ("SMALL.gguf", "small.gguf"),
        ("LARGE.gguf", "large.gguf"),
        ("[general/]", "[general]"),
        ("[french/]", "[french]"),
        ("requests.jsonl", "requests.jsonl"),
        ("my_behaviour.json", "mine.json"),
    ):
        assert reader in train
        train = train.replace(
            reader, ours.replace("[", f"[{tmp_path}/") if "[" in ours else f"{tmp_path}/{ours}"
        )
    more = (
        "corpus.tokens.train=12288 corpus.tokens.validation=2048 corpus.tokens.test=2048 corpus.context=128 "
        "fit.epochs=1 batches.rows=64"
    )
    run(Line(REAL, f"{train} {more}").words, tmp_path, experiment="")
    assert len([*tmp_path.glob("artifacts/models/gguf/*/model.safetensors")]) == 2
    (manifest,) = tmp_path.glob("artifacts/activations/*/manifest.json")
    store = ActivationStore.open(manifest.parent)
    rows = [*store.stream("train", ["token", "group"])]
    tokens, groups = (torch.cat([row[name] for row in rows]) for name in ("token", "group"))
    # every part is there, and a conversation's marks with it
    assert set(groups.tolist()) == {0, 1, 2}
    marked = groups[tokens == TOKENS.index("<|im_start|>")]
    assert len(marked) > 20
    assert set(marked.tolist()) == {sorted(["general", "chats", "french"]).index("chats")}


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
