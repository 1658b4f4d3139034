"""`lrt compare`: which runs it takes, and what it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lrt.cli.app import app

FRENCH = {"name": "french", "unsteered": 0.0, "native": 0.8, "transferred": 0.6, "ratio": 0.75}


def lrt(*words: str) -> Result:
    return CliRunner().invoke(app, ["compare", *words])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two reports, in which french transfers otherwise."""
    monkeypatch.chdir(tmp_path)
    for name, ratio in (("one", 0.75), ("two", 0.3)):
        (tmp_path / name).mkdir()
        run = {"behaviours": [{**FRENCH, "ratio": ratio, "ratio_ci": [ratio - 0.1, ratio + 0.1]}]}
        (tmp_path / name / "results.json").write_text(json.dumps(run))
    return tmp_path


@pytest.mark.parametrize("runs", [("one", "two"), ("one/results.json", "two")])
def test_two_reports_by_folder_or_file(desk: Path, runs: tuple[str, str]) -> None:
    done = lrt(*runs, "--to", "page")
    assert done.exit_code == 0, done.output
    assert "separate 1 of 1" in " ".join(done.output.split())
    assert (desk / "page" / "compare.html").is_file()
    assert json.loads((desk / "page" / "compare.json").read_text())["runs"] == {"A": runs[0], "B": runs[1]}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "results.json"),
        ("{", "results.json"),
        ("[]", "no behaviours"),
        ('{"atlas": []}', "no behaviours"),
        ('{"behaviours": [{"ratio": 1}]}', "no behaviours"),
        ('{"behaviours": "french"}', "no behaviours"),
    ],
)
def test_what_is_no_report_is_refused_before_anything_is_written(
    desk: Path, content: str | None, named: str
) -> None:
    (desk / "two" / "results.json").unlink()
    if content is not None:
        (desk / "two" / "results.json").write_text(content)
    done = lrt("one", "two")
    assert done.exit_code == 1
    assert named in " ".join(done.output.split())
    assert "two" in done.output
    assert not (desk / "comparison").exists()


def test_a_folder_that_cannot_be_written_is_named(desk: Path) -> None:
    (desk / "taken").write_text("a file")
    done = lrt("one", "two", "--to", "taken")
    assert done.exit_code == 1
    assert "--to" in done.output
