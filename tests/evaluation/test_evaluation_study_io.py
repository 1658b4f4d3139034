import json
from dataclasses import replace
from pathlib import Path

import pytest
from planted_studies import planted_study
from small_behaviours import text_behaviour

from lrt.evaluation.study_io import RecordCorrupt, items_beside, read_study, write_items, write_study

BEHAVIOUR = text_behaviour()
STUDY = planted_study(BEHAVIOUR, noise=0.1)


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


def test_every_measured_item_can_be_looked_up_beside_the_measurements(tmp_path: Path) -> None:
    file = items_beside(tmp_path / "rows.jsonl")
    assert file.parent == tmp_path
    odd = replace(BEHAVIOUR.test[0], prompt='a\nb\u2028"c" été 🐕', prompted="in French: a")
    behaviour = replace(BEHAVIOUR, test=(odd, *BEHAVIOUR.test[1:]))
    write_items(file, behaviour)
    lines = [json.loads(line) for line in file.read_text().removesuffix("\n").split("\n")]
    items = {line["item"]: line for line in lines}
    assert {row.item for row in planted_study(behaviour).measurements} <= {*items}
    assert items[odd.id] == {
        "item": odd.id,
        "split": "test",
        "prompt": odd.prompt,
        "key": odd.key,
        "matching": odd.matching,
        "other": odd.other,
        "prompted": odd.prompted,
    }
    assert {line["split"] for line in lines} == {"development", "test"}


def test_a_prompt_that_the_source_reads_otherwise_stands_beside_the_targets(tmp_path: Path) -> None:
    same, other = BEHAVIOUR.test[0], replace(BEHAVIOUR.test[1], prompt="<user> another template")
    write_items(
        tmp_path / "items.jsonl", BEHAVIOUR, replace(BEHAVIOUR, test=(same, other, *BEHAVIOUR.test[2:]))
    )
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    (line,) = (line for line in lines if "source_prompt" in line)
    assert (line["item"], line["source_prompt"]) == (BEHAVIOUR.test[1].id, other.prompt)
