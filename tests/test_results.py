"""The committed outcome on a real pair: its tables are of its data, and it names no place of the machine."""

import json
import re
from pathlib import Path

import pytest

from lrt.report.page import markdown
from lrt.report.plain import to_json

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "docs" / "results").glob("*/results.json"))


def test_there_is_one() -> None:
    assert RESULTS


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.parent.name)
def test_tables_are_made_of_the_data(file: Path) -> None:
    text = file.read_text()
    record = json.loads(text)
    assert to_json(record).decode() == text
    assert markdown(record) == file.with_name("report.md").read_text()
    assert record["split"] == "test"
    for behaviour in record["behaviours"]:
        # shares of a native effect that is none are not told
        assert (set(behaviour["nulls"]) >= {"random", "shuffled", "bias"}) is behaviour["steers"]
        assert (behaviour["ratio"] is not None) is behaviour["steers"]
    # relative paths alone: a reader has no such folders
    assert not re.search(r"(?<![\w.:/])/(root|home|tmp|work|mnt)\b", text)
