"""The notebooks run from top to bottom."""

import itertools
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from lrt.lab.grammar import Plan, pages

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"


def executed(name: str, folder: Path, replaced: dict[str, str]) -> Any:
    """The notebook after a run in a folder, with some of its text replaced."""
    text = (NOTEBOOKS / f"{name}.ipynb").read_text()
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    notebook = nbformat.reads(text, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def figures(notebook: Any) -> int:
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", [])]
    return sum("image/png" in each.get("data", {}) for each in outputs)


def test_notebooks_are_committed_without_outputs() -> None:
    files = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert [file.stem for file in files] == ["lab", "own_pair"]
    for file in files:
        cells = nbformat.read(file, as_version=4).cells
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_the_lab_notebook_shows_a_transfer_beside_its_nulls(tmp_path: Path) -> None:
    notebook = executed("lab", tmp_path, {})
    assert figures(notebook) == 1
    (shown,) = (
        each["data"]["text/plain"]
        for cell in notebook.cells
        for each in cell.get("outputs", [])
        if "'random direction': [" in each.get("data", {}).get("text/plain", "")
    )
    curves = eval(shown)
    assert curves["transferred"][-1] - curves["transferred"][0] >= 6
    for null in ("untrained source", "random direction"):
        assert curves[null][-1] - curves[null][0] <= 2


@pytest.mark.slow
def test_the_notebook_for_a_pair_runs_on_another_pair(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    plans = [Plan("story", language=language) for language in ("french", "english")]
    written = [page.text for plan in plans for page in itertools.islice(pages(7, "held_out", plan), 200)]
    (texts / "mine.txt").write_text("\n\n".join(written))
    pair = {
        "HuggingFaceTB/SmolLM2-135M-Instruct": "storybook:tiny",
        "HuggingFaceTB/SmolLM2-360M-Instruct": "storybook:small",
        "[0.0, 0.1, 0.2, 0.35, 0.5]": "[0.0, 0.5]",
    }
    assert figures(executed("own_pair", tmp_path, pair)) == 1
