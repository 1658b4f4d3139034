"""Reference pages: every command, key and public name, from the code."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

import lrt
from lrt.cli.app import app
from studies.reference import ROOT, api, commands, described, every_setting, kind_of, settings


@dataclasses.dataclass(frozen=True)
class Inner:
    """Something within.

    size   How large it is,
           in metres.
    left, right  Sides.
    """

    size: int
    left: float | None
    right: Literal["a", "b"]


@dataclasses.dataclass(frozen=True)
class Outer:
    """The whole.

    name  Of it.

    Raises ValueError for nothing.
    """

    inner: Inner
    name: str


def test_keys_have_types_defaults_and_meanings() -> None:
    defaults = {"name": "x", "inner": {"size": 3, "left": None, "right": "a"}}
    found = [dataclasses.astuple(each) for each in every_setting(Outer, "", defaults)]
    assert found == [
        ("name", "text", "x", "Of it."),
        ("inner.size", "integer", "3", "How large it is, in metres."),
        ("inner.left", "number or `null`", "null", "Sides."),
        ("inner.right", "`a` or `b`", "a", "Sides."),
    ]
    assert described(Outer) == {"name": "Of it."}


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (Annotated[int, Field(ge=0)], "integer"),
        (tuple[str, ...], "list of text"),
        (dict[str, Any], "mapping"),
        (bool | None, "true or false or `null`"),
    ],
)
def test_types_are_written_for_people(kind: Any, shown: str) -> None:
    assert kind_of(kind) == shown


def test_every_setting_is_on_the_page() -> None:
    page = settings()
    for key in ("seed", "pair.source.path", "fit.learning_rate", "evaluation.grid.strengths", "suite.french"):
        assert f"| `{key}` |" in page
    described_by = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert not [cells[0] for cells in described_by if not cells[3].strip(" |")]
    (pool,) = (line for line in page.splitlines() if line.startswith("| `pool` "))
    assert "| integer | `16` |" in pool


def test_every_public_name_is_on_the_page() -> None:
    page = api()
    for name in lrt.__all__:
        assert f"## lrt.{name}\n" in page
    assert max(map(len, page.splitlines())) < 2000, "a default is shown whole"
    assert "lrt.extract_vector(lm: LanguageModel, positives: Sequence[str]" in page


@pytest.mark.slow
def test_every_command_is_on_the_page() -> None:
    page = commands()
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        assert f"## `lrt {name}`" in page


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr
    start = (tmp_path / "index.html").read_text()
    assert "getting-started.html" in start
    for page in tmp_path.rglob("*.html"):  # nothing is fetched when a page is read
        assert 'src="http' not in page.read_text()
        assert 'rel="stylesheet" href="http' not in page.read_text()
