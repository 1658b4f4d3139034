"""Results files of published settings, and the page that is made of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report.conftest import results, whole_record  # noqa: F401  # fixtures

from lrt.report.papers import compact, papers_page
from studies.papers import DOCS, main, records


def test_the_page_follows_from_the_files() -> None:
    files = records(DOCS / "papers")
    assert (DOCS / "papers.md").read_text() == papers_page(files)
    for name, record in files.items():
        assert not re.search(r"(?<![\w.:/])/(root|home|tmp|work|mnt)\b", json.dumps(record)), name


def test_a_file_is_taken_in_under_its_setting_machine_and_date(
    results: dict[str, Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    results["provenance"] = {"date": "2026-11-29T02:00:00+00:00", "machine": "1 x NVIDIA H100 (80 GB)"}
    record = compact(results, "unlock_svamp", False)
    sent = tmp_path / "sent.json"
    sent.write_text(json.dumps(record))
    assert main([str(sent)], tmp_path) == 0
    (file,) = (tmp_path / "papers").iterdir()
    assert file.name == "unlock_svamp-1-x-nvidia-h100--80-gb-2026-11-29.json"
    page = (tmp_path / "papers.md").read_text()
    assert page == papers_page({file.stem: record})
    assert main([], tmp_path) == 0
    assert (tmp_path / "papers.md").read_text() == page


@pytest.mark.parametrize(
    "text", ["no json", "{}", json.dumps({"format": 1, "behaviours": [], "setting": "paper_base"})]
)
def test_another_file_changes_nothing(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = tmp_path / "sent.json"
    sent.write_text(text)
    assert main([str(sent)], tmp_path) == 1
    assert "sent.json" in capsys.readouterr().err
    assert not [*(tmp_path / "papers").iterdir()]
    assert not (tmp_path / "papers.md").exists()
