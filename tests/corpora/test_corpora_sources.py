import json
from pathlib import Path
from typing import Any

import pytest

from lrt.corpora import CorpusEmpty, CorpusError, CorpusMissing, as_chat, hub, jsonl, text_files

TEXT = "one\ntwo\n\n\nthree\n  \nfour"


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("file", [TEXT]),
        ("paragraph", ["one\ntwo", "three", "four"]),
        ("line", ["one", "two", "three", "four"]),
    ],
)
def test_text_units(tmp_path: Path, unit: Any, expected: list[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    found = [*text_files([tmp_path / "a.txt"], unit, group="g")]
    assert [d.text for d in found] == expected
    assert {d.group for d in found} == {"g"}


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert [d.text for d in text_files([tmp_path])] == ["a", "b"]


def test_missing_text_is_told_when_the_reader_is_made(tmp_path: Path) -> None:
    with pytest.raises(CorpusMissing, match=r"gone\.txt is not a text file.*corpus\.sources"):
        text_files([tmp_path / "gone.txt"])
    with pytest.raises(CorpusMissing, match=r"folder of \*\.txt"):
        text_files([tmp_path])
    with pytest.raises(CorpusMissing, match="no text files were named"):
        text_files([])
    with pytest.raises(CorpusError, match="'word' is unknown; it is one of file, paragraph, line"):
        text_files([tmp_path], unit="word")  # type: ignore[arg-type]


def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(" \n ")
    with pytest.raises(CorpusEmpty, match=r"a\.txt holds no text"):
        [*text_files([file], "line")]
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match=r"a\.txt is not UTF-8"):
        [*text_files([file])]


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    return path


def test_jsonl_takes_the_field(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"body": "x", "n": 1}, {"body": "y"})
    assert [d.text for d in jsonl(path, "body", "g")] == ["x", "y"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ('{"body": "x"}', CorpusError, r"line 1 has no field 'text'; it has body"),
        ('{"text": 3}', CorpusError, r"line 1: field 'text' holds a int, not text"),
        ('{"text": [{}]}', CorpusError, r"holds a list, not text.*chat: true"),
        ('{"text": "x"}\n{"te', CorpusError, "line 2 is not JSON"),
        ('["x"]', CorpusError, "line 1 is a JSON list, not an object"),
        ("\n", CorpusEmpty, "holds no line"),
    ],
)
def test_jsonl_that_is_wrong_names_the_line(
    tmp_path: Path, content: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(error, match=message):
        [*jsonl(path)]


def test_missing_jsonl_is_told_when_the_reader_is_made(tmp_path: Path) -> None:
    with pytest.raises(CorpusMissing, match=r"a\.jsonl is not there"):
        jsonl(tmp_path / "a.jsonl")


def test_chat_writes_requests_and_conversations(tmp_path: Path, tokenizer: Any) -> None:
    talk = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    path = write_rows(tmp_path / "a.jsonl", {"text": "w1"}, {"text": talk})
    request, conversation = (d.text for d in jsonl(path, tokenizer=tokenizer))
    assert request == "<bos>[user] w1 [assistant]"
    assert conversation == "<bos>[user] w1 [assistant] w2 "


def test_chat_that_the_template_refuses(tokenizer: Any, tokenizer_without_bos: Any) -> None:
    with pytest.raises(CorpusError, match="row 7: the chat template refuses it: no system role"):
        as_chat([{"role": "system", "content": "w1"}], tokenizer, "row 7")
    with pytest.raises(CorpusError, match="no chat template"):
        as_chat("w1", tokenizer_without_bos)


def test_hub_reads_a_local_folder_as_it_would_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write_rows(tmp_path / "set" / "train.jsonl", {"text": "x"}, {"text": "y"})
    found = [*hub(str(tmp_path / "set"), group="g")]
    assert [(d.text, d.group) for d in found] == [("x", "g"), ("y", "g")]
    with pytest.raises(CorpusError, match="row 0 has no field 'body'; it has text"):
        [*hub(str(tmp_path / "set"), field="body")]
    with pytest.raises(CorpusMissing, match=r"split 'dev'.*cannot be loaded"):
        [*hub(str(tmp_path / "set"), split="dev")]
    with pytest.raises(CorpusMissing, match=r"cannot be loaded.*corpus\.sources"):
        hub(str(tmp_path / "nothing"))
