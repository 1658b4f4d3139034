"""The commands without Hydra, as a user types them: results, files and messages."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from storybook_models import tiny_llama
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

import lrt.api
from lrt.cli.app import app
from lrt.cli.vector_files import FormatName
from lrt.lab.grammar import Plan, pages
from lrt.steering.formats import FORMATS, read_vector

ROOT = Path(__file__).parents[2]
Lrt = Callable[..., "Typed"]


@dataclass(frozen=True)
class Typed:
    """What a command printed, and its exit code."""

    code: int
    output: str

    @property
    def line(self) -> str:
        return " ".join(self.output.split())


@pytest.fixture(scope="module")
def desk(family_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: two models, text, prompts, a vector, and a map of one pair of layers."""
    desk = tmp_path_factory.mktemp("desk")
    for name, width, seed in (("little", 32, 0), ("big", 48, 1)):
        lm = tiny_llama(family_tokenizer, width, 3, seed)
        lm.model.save_pretrained(desk / name)
        family_tokenizer.save_pretrained(desk / name)
    written = pages(31, "held_out", Plan("story", language="english"))
    (desk / "texts.txt").write_text("\n\n".join(next(written).text for _ in range(300)))
    for name, language in (("positives", "french"), ("negatives", "english")):
        stories = pages(32, "held_out", Plan("story", language=language))
        (desk / f"{name}.txt").write_text("\n".join(next(stories).text for _ in range(12)))
    return desk


@pytest.fixture
def typed(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Lrt:
    """`lrt WORDS` in that folder, in this process."""

    def typed(*words: str, text: str | None = None, code: int = 0, folder: Path = desk) -> Typed:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "100")
        done = CliRunner().invoke(app, words, input=text, prog_name="lrt")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        ran = Typed(done.exit_code, done.output)
        assert ran.code == code, ran.output
        return ran

    return typed


@pytest.fixture
def worked(typed: Lrt, desk: Path) -> Lrt:
    """The same after a map was fitted and a vector extracted."""
    if not (desk / "map").exists():
        fit = ("fit", "little", "big", "--text", "texts.txt", "--layers", "1,2", "--pool", "4", "-o", "map")
        typed(*fit)
        sides = ("--positives", "positives.txt", "--negatives", "negatives.txt")
        typed("extract", "little", *sides, "--layer", "1", "--behaviour", "french", "-o", "french")
    return typed


# -- start ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--help"], ["fit", "--help"], ["train", "--help"], ["list"]], ids=" ".join
)
def test_help_and_lists_import_no_torch(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from lrt.cli.app import app\n"
        f"try: app({words!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('imported', *({'torch', 'transformers', 'hydra', 'lightning'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported"


COMMANDS = (
    "demo",
    "fit",
    "extract",
    "transfer",
    "steer",
    "inspect",
    "list",
    "export",
    "bake",
    "push",
    "pull",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples(typed: Lrt, name: str) -> None:
    assert f"lrt {name}" in typed(name, "--help").output.partition("Examples:")[2]


def test_the_shell_completes_commands_and_formats() -> None:
    def completed(*words: str) -> str:
        line = " ".join(["lrt", *words])
        environment = {"_LRT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
        return CliRunner().invoke(app, [], prog_name="lrt", env=environment).output

    assert {"transfer", "train"} <= {*completed("tr").split()}
    assert "steering-vectors" in completed("export", "french", "--to", "st")


def test_the_formats_of_the_command_line_are_those_of_the_library() -> None:
    assert set(FormatName.__args__) == set(FORMATS)  # type: ignore[attr-defined]


# -- from text to a steered sentence ----------------------------------------------------------------


def test_it_does_what_the_library_does(worked: Lrt, desk: Path) -> None:
    small = lrt.load(desk / "little")
    sides = [(desk / f"{side}.txt").read_text().splitlines() for side in ("positives", "negatives")]
    extracted = lrt.extract_vector(small, *sides, layer=1, behaviour="french")
    saved = lrt.SteeringVector.load(desk / "french")
    assert torch.equal(saved.direction, extracted.direction)
    assert saved.behaviour == "french"
    texts = (desk / "texts.txt").read_text().split("\n\n")
    fitted = lrt.fit_map(small, lrt.load(desk / "big"), texts, layers=(1, 2), pool=4)
    assert lrt.load_map(desk / "map").card["fingerprint"] == fitted.card["fingerprint"]

    printed = worked("transfer", "french", "--map", "map", "-o", "big-french").output
    ours = fitted.transfer(extracted)
    assert torch.equal(lrt.SteeringVector.load(desk / "big-french").direction, ours.vector.direction)
    assert str(ours.forecast) in printed
    for warning in ours.forecast.warnings:
        assert warning in printed


def test_a_steered_text_stands_beside_the_unsteered(worked: Lrt, desk: Path) -> None:
    worked("transfer", "french", "--map", "map", "-o", "big-french")
    more = ("--strength", "3", "--strength", "-3", "--tokens", "6")
    printed = worked("steer", "big", "big-french", "Once upon", *more).output
    large, vector = lrt.load(desk / "big"), lrt.SteeringVector.load(desk / "big-french")
    texts = [large.generate("Once upon", 6)]
    for strength in (3, -3):
        with lrt.steer(large, vector, strength):
            texts.append(large.generate("Once upon", 6))
    assert len(set(texts)) == 3
    for name in ("unsteered", "strength 3", "strength -3"):
        assert name in printed
    letters = "".join(printed.split())
    assert all("".join(text.split())[:12] in letters for text in texts)


def test_a_conversation_goes_on_until_the_user_ends_it(worked: Lrt) -> None:
    worked("transfer", "french", "--map", "map", "-o", "big-french")
    said = "/strength 2\n/strength much\nTell me a story.\n/reset\n\n/quit\nNever said.\n"
    printed = worked("steer", "big", "big-french", "--chat", "--tokens", "4", text=said).output
    assert "strength 2" in printed
    assert "/strength much" in printed
    assert printed.count("unsteered") == 1
    ended = worked("steer", "big", "big-french", "--chat", "--tokens", "4", text="Tell me a story.\n").output
    assert ended.count("unsteered") == 1


# -- formats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "file", "written", "read"),
    [
        ("gguf", "v.gguf", [], []),
        ("steering-vectors", "v.pt", [], ["model=little"]),
        ("lm-eval", "v.pt", ["strength=1", "blocks=layers"], ["model=little"]),
        ("vllm-lens", "v.json", ["strength=1"], ["model=little"]),
        ("hotwire", "v.pt", ["depth=3"], ["model=little"]),
        (
            "tensors",
            "v.safetensors",
            [],
            ["model=little", "layer=layer.{}", "hook_point=block output", "residual_norm=stored"],
        ),
    ],
)
def test_a_vector_of_any_format_goes_in_and_out(
    worked: Lrt, desk: Path, form: str, file: str, written: list[str], read: list[str]
) -> None:
    options = [word for fact in written for word in ("--write", fact)]
    worked("export", "french", "--to", form, "-o", file, *options)
    facts = dict(fact.split("=", 1) for fact in read)
    (again,) = read_vector(desk / file, form, **facts)
    assert torch.allclose(again.unit_direction, lrt.SteeringVector.load(desk / "french").unit_direction)
    back = ["--from", form, *(word for fact in read for word in ("--read", fact))]
    worked("transfer", file, *back, "--map", "map", "-o", "again.gguf")
    (transferred,) = read_vector(desk / "again.gguf")
    assert (transferred.model, transferred.layer) == ("big", 2)
    inspected = worked("inspect", file).output
    assert "1" in inspected
    assert form in inspected or form == "tensors"


def test_messages_name_options_in_place_of_the_arguments_of_the_library(worked: Lrt, desk: Path) -> None:
    worked("export", "french", "--to", "steering-vectors", "-o", "foreign.pt")
    assert "--from is missing" in worked("steer", "big", "foreign.pt", "Once", code=1).line
    missing = worked("steer", "big", "foreign.pt", "Once", "--from", "steering-vectors", code=1).line
    assert "--read model=" in missing
    torch.save({"model=": 1}, desk / "layer=1.pt")
    strange = worked("steer", "big", "./layer=1.pt", "Once", "--from", "lm-eval", code=1).line
    assert "layer=1.pt" in strange
    assert "--read layer=1.pt" not in strange


def test_a_baked_model_writes_what_the_steered_one_does(worked: Lrt, desk: Path) -> None:
    worked("bake", "little", "french", "--strength", "3", "-o", "baked")
    little, vector = lrt.load(desk / "little"), lrt.SteeringVector.load(desk / "french")
    with lrt.steer(little, vector, 3):
        steered = little.generate("Once upon", 6)
    assert lrt.load(desk / "baked").generate("Once upon", 6) == steered != little.generate("Once upon", 6)


# -- what is here -----------------------------------------------------------------------------------


def test_artifacts_are_listed_newest_first_and_used_by_their_names(worked: Lrt, desk: Path) -> None:
    worked("transfer", "french", "--map", "map", "-o", "elsewhere/french")
    names = [line.split()[0] for line in worked("list", "-n", "0").output.splitlines()[1:]]
    assert names.index("french-little-1") < names.index("little-1-to-big-2")
    assert names.index("french-big-2-transferred") < names.index("french-little-1")
    assert len(set(names)) == len(names)
    worked("transfer", "french-little-1", "--map", "little-1-to-big-2", "-o", "by-name")
    assert (desk / "by-name" / "vector.json").is_file()
    assert "vector" not in worked("list", "--kind", "map").output
    assert worked("list", "--kind", "map", "--paths").output.strip() == "map"


@pytest.mark.parametrize("name", ["map", "french"])
def test_inspect_finds_a_flipped_byte(worked: Lrt, desk: Path, name: str) -> None:
    assert "yes" in worked("inspect", name).output
    for weights in (desk / name).glob("*.safetensors"):
        whole = weights.read_bytes()
        try:
            weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            damaged = worked("inspect", name, code=1)
            assert weights.name in damaged.line
        finally:
            weights.write_bytes(whole)


def test_a_run_and_its_report_are_inspected(typed: Lrt, desk: Path) -> None:
    run = desk / "outputs" / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("- pool=4\n- seed=2\n")
    assert "pool=4 seed=2" in typed("inspect", "outputs/run").line
    results = {"pair": {"name": "a -> b"}, "behaviours": [{"name": "french", "ratio": 0.9}]}
    (run / "report").mkdir()
    (run / "report" / "results.json").write_text(json.dumps(results))
    for path in ("outputs/run/report", "outputs/run/report/results.json"):
        assert "90%" in typed("inspect", path).output


def test_push_and_pull_are_those_of_the_library(worked: Lrt, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they do is tested in tests/api."""
    calls: list[object] = []

    def push(artifact: Path, repository: str, **options: object) -> str:
        calls.append((str(artifact), repository, options))
        return "https://hub/org/name"

    def pull(reference: str, folder: Path | None) -> Path:
        calls.append((reference, folder))
        return folder or Path("cache")

    monkeypatch.setattr(lrt.api, "push", push)
    monkeypatch.setattr(lrt.api, "pull", pull)
    assert "https://hub/org/name" in worked("push", "map", "org/name", "--private").output
    worked("push", "french-little-1", "org/name", "--revision", "v1", "--licence", "mit")
    assert "cache" in worked("pull", "org/name@v1").output
    worked("pull", "org/name", "-o", "pulled")
    assert calls == [
        ("map", "org/name", {"private": True, "revision": None, "licence": None}),
        ("french", "org/name", {"private": False, "revision": "v1", "licence": "mit"}),
        ("org/name@v1", None),
        ("org/name", Path("pulled")),
    ]


def test_every_example_of_the_docs_runs(
    worked: Lrt, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, on the reader's files; the hub is tested in tests/api, the demonstration by itself."""
    page = (ROOT / "docs" / "command-line.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True)[1:] for block in blocks for line in block.splitlines()]
    assert {*COMMANDS} == {line[0] for line in lines}
    for name in ("little", "big", "texts.txt", "positives.txt", "negatives.txt"):
        (tmp_path / name).symlink_to(desk / name)
    latest = tmp_path / "artifacts" / "latest"
    monkeypatch.setattr(lrt.api, "push", lambda *_, **__: "https://hub/my-name/my-map")
    monkeypatch.setattr(lrt.api, "pull", lambda _, folder: folder)
    reader = {"SMALL": "little", "LARGE": "big"}
    for words in lines:
        if words[0] == "push":
            shutil.copytree(tmp_path / "map", tmp_path / "my-name" / "my-map")
        if any(word.startswith("artifacts/latest") for word in words):
            shutil.copytree(tmp_path / "map", latest / "map")
            shutil.copytree(tmp_path / "french", latest / "vectors" / "french-source-layer-1")
        words = [reader.get(word, word) for word in words]
        small = {"fit": ["--pool", "4"], "steer": ["--tokens", "4"]}.get(words[0], [])
        if words[0] != "demo" and "--strict" not in words:
            worked(*words, *small, folder=tmp_path)


@pytest.mark.slow
def test_the_demonstration_steers_and_its_nulls_do_not(typed: Lrt, desk: Path) -> None:
    printed = typed("demo", "--keep", "demo").output
    refused = printed.partition("harmless requests")[2]

    def count(condition: str) -> int:
        return int(refused.partition(condition)[2].split()[0])

    assert min(count("native"), count("transferred")) >= 6
    assert max(map(count, ("unsteered", "random direction", "untrained source"))) <= 1
    assert "no warning" in printed
    kept = typed("transfer", "demo/refusal", "--map", "demo/map", "-o", "demo/again")
    assert "no warning" in kept.output
    again, first = (lrt.SteeringVector.load(desk / "demo" / n) for n in ("again", "refusal-transferred"))
    assert torch.equal(again.direction, first.direction)


# -- what a user can fix ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("fit little big --text none.txt -o m", "none.txt"),
        ("fit little big --text storybook -o m", "--tokens"),
        ("fit little big --text storybook:poem --tokens 5000 -o m", "storybook:poem"),
        ("fit little big --text texts.txt --layers 1 -o m", "--layers 1"),
        ("fit little big --text texts.txt --layers 1,some -o m", "--layers some"),
        ("fit little big --text texts.txt --layers 1,9 -o m", "9"),
        ("fit little ./nowhere --text texts.txt -o m", "nowhere"),
        ("extract little --positives none.txt --negatives negatives.txt -o v", "none.txt"),
        ("extract little --positives positives.txt --negatives negatives.txt --layer x -o v", "--layer x"),
        ("transfer frech --map map -o v", "french"),
        ("transfer french --map mop -o v", "mop"),
        ("transfer french --map map --layer 7 -o v", "7"),
        ("transfer french --map map --layer 0.5 -o v", "--layer 0.5"),
        ("transfer french --map map --source-layer 0 -o v", "layer 0"),
        ("transfer french --map map --read model -o v", "--read model"),
        ("transfer french --map map -o v.pt", "--to "),
        ("transfer french --map map -o texts.txt/v", "texts.txt"),
        ("transfer french --map map -o map", "map"),
        ("transfer french --map map --layer autto -o v", "--layer autto"),
        ("transfer map --map map -o v", "vector.json"),
        ("fit little big --text texts.txt -o french", "vector"),
        ("fit little big --text none.txt -o texts.txt", "--out texts.txt"),
        ("fit little big --text none.txt -o texts.txt/map", "--out texts.txt/map"),
        ("extract none --positives none.txt --negatives none.txt -o v.pt", "--to "),
        ("extract none --positives none.txt --negatives none.txt -o map", "--out map"),
        ("steer little french Once --strength nan", "strength=nan"),
        ("steer big french", "PROMPT"),
        ("steer big french Once", "width"),
        ("steer big french --chat --strength 1 --strength 2", "--strength"),
        ("inspect texts.txt", "texts.txt"),
        ("inspect nothing", "nothing"),
        ("list nowhere", "nowhere"),
        ("export french --to lm-eval -o w.pt", "--write strength="),
        (
            "export french --to lm-eval --write strength=1 --write blocks=layers --write model=a -o w.pt",
            "--write model=",
        ),
        ("bake big french -o baked --strength 1", "width"),
        ("bake little french -o texts.txt --strength 1", "texts.txt"),
        ("bake little french -o baked --strength nan", "strength"),
        ("push french not-a-repository", "org/name"),
        ("pull not-a-repository", "org/name"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_1(worked: Lrt, desk: Path, words: str, named: str) -> None:
    before = {*desk.rglob("*")}
    ran = worked(*words.split(), code=1)
    assert "error:" in ran.output
    assert named in ran.line
    assert {*desk.rglob("*")} <= before


@pytest.mark.parametrize("words", ["fit little", "export french --to nothing", "unknown", "transfer french"])
def test_a_line_that_is_no_command_exits_with_2(typed: Lrt, words: str) -> None:
    typed(*words.split(), code=2)


def test_strict_writes_nothing_where_the_forecast_warns(worked: Lrt, desk: Path) -> None:
    mapping = lrt.load_map(desk / "map")
    mapping.save(desk / "no-sums", sums=False)  # it transfers with the warning that nothing is known
    ran = worked("transfer", "french", "--map", "no-sums", "-o", "strict", "--strict", code=1)
    assert "warning" in ran.output
    assert not (desk / "strict").exists()
    worked("transfer", "french", "--map", "no-sums", "-o", "lax")
    assert (desk / "lax").exists()


def test_a_fault_of_the_program_keeps_its_traceback(worked: Lrt, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(importlib.import_module("lrt.api"), "load_map", broken)
    with pytest.raises(ZeroDivisionError):
        worked("transfer", "french", "--map", "map", "-o", "v")
