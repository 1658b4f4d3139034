from dataclasses import replace
from pathlib import Path

import pytest
from planted_studies import planted_study
from small_behaviours import text_behaviour

from lrt.evaluation.study_io import RecordCorrupt, read_study, write_study

STUDY = planted_study(text_behaviour(), noise=0.1)


def test_read_back_to_the_bit(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "rows.jsonl"
    write_study(file, STUDY)
    assert read_study(file) == STUDY
    assert [p.name for p in file.parent.iterdir()] == ["rows.jsonl"]
    chosen_on = replace(STUDY, split="development")
    write_study(file, chosen_on)
    assert read_study(file) == chosen_on


@pytest.mark.parametrize("text", ["a\nb\r\n", "a\u2028b\u2029c\x85d\x0c\x1ce", "été 🐕 \ufffd", ""])
def test_any_text_that_a_model_may_write(text: str, tmp_path: Path) -> None:
    rows = (replace(STUDY.measurements[0], text=text), *STUDY.measurements[1:])
    study = replace(STUDY, measurements=rows)
    write_study(tmp_path / "rows.jsonl", study)
    assert read_study(tmp_path / "rows.jsonl") == study


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write_study(file, STUDY)
    lines = file.read_text().splitlines(keepends=True)
    broken = {
        "empty": "",
        "cut in a line": "".join(lines)[:-9],
        "a row lost": "".join(lines[:-1]),
        "a row too many": "".join([*lines, lines[-1]]),
        "no head": "".join(lines[1:]),
        "another field": "".join([lines[0], '{"flavour": 1}\n', *lines[2:]]),
        "no object": "".join(["[]\n", *lines[1:]]),
    }
    for content in broken.values():
        file.write_text(content)
        with pytest.raises(RecordCorrupt, match=r"rows\.jsonl"):
            read_study(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordCorrupt):
        read_study(file)
