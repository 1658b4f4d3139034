import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import zstandard

from lrt.corpora import (
    SPLITS,
    CorpusEmpty,
    CorpusError,
    CorpusMissing,
    Part,
    hub,
    jsonl,
    mixture,
    pack,
    text_files,
)
from lrt.corpora.errors import ChatRefused
from lrt.corpora.sources import FIRST, REFUSED

TEXT = "one\ntwo\n\n\nthree\n  \nfour"


def turns(*roles: str) -> dict[str, Any]:
    return {"c": [{"role": role, "content": f"w{number}"} for number, role in enumerate(roles)]}


def test_conversations_that_the_template_refuses_are_left_out_and_counted(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [turns("user", "assistant") for _ in range(30)]
    for number, row in enumerate(rows):
        row["c"][0]["content"] = " ".join(["w1"] * (number + 8))  # no two alike
    rows[3] = rows[20] = turns("system")  # which this template takes before a user alone
    path = write_rows(tmp_path / "a.jsonl", *rows)
    read = [*jsonl(path, "c", "g", tokenizer)]
    assert [number for number, d in enumerate(read) if d.left_out] == [3, 20]
    (told,) = (r.getMessage() for r in caplog.records)
    assert "a.jsonl line 7" in told
    assert "takes no system role" in told
    packed = pack(mixture([Part("g", read)]), tokenizer, 8, dict.fromkeys(SPLITS, 16))
    assert packed.documents_left_out == {REFUSED: 2}


def test_a_set_whose_conversations_are_all_refused_is_no_set_of_chats(tmp_path: Path, tokenizer: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", *[turns("system")] * (FIRST + 1))
    read = jsonl(path, "c", "g", tokenizer)
    with pytest.raises(ChatRefused, match="takes no system role"):
        list(read)
    few = write_rows(tmp_path / "b.jsonl", *[turns("system")] * 2)
    with pytest.raises(CorpusEmpty, match=f"2 {REFUSED}"):
        pack(jsonl(few, "c", "g", tokenizer), tokenizer, 8, {"train": 16})


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
    found = [*text_files([tmp_path / "a.txt"], unit, source="g")]
    assert [d.text for d in found] == expected
    assert {d.source for d in found} == {"g"}


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert [d.text for d in text_files([tmp_path])] == ["a", "b"]
    assert [d.text for d in text_files([tmp_path], case="upper")] == ["A", "B"]


def test_missing_text_is_told_when_the_reader_is_made(tmp_path: Path) -> None:
    with pytest.raises(CorpusMissing, match=r"gone\.txt is not a text file.*corpus\.sources"):
        text_files([tmp_path / "gone.txt"])
    with pytest.raises(CorpusMissing, match=r"folder of \*\.txt"):
        text_files([tmp_path])
    with pytest.raises(CorpusMissing, match="no text files were named"):
        text_files([])
    with pytest.raises(CorpusError, match="'word' is unknown; it is one of file, paragraph, line"):
        text_files([tmp_path], unit="word")  # type: ignore[arg-type]
    with pytest.raises(CorpusError, match="case 'small' is unknown; it is one of as_is, upper"):
        text_files([tmp_path], case="small")  # type: ignore[arg-type]


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
        ("\n", CorpusEmpty, "holds no row"),
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


def test_a_json_file_holds_one_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "x"}, {"text": "y"}], indent=1))
    assert [d.text for d in jsonl(path)] == ["x", "y"]
    for content, message in (
        ("[1]", "item 1 is a JSON int, not an object"),
        ('{"text": "x"}', "is a JSON dict, not a list of objects"),
        ("[", "is not JSON"),
        ("[]", "holds no row"),
    ):
        path.write_text(content)
        with pytest.raises(CorpusError, match=message):
            [*jsonl(path)]


def test_requests_with_answers_in_another_field(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"instruction": "w1", "response": "w2", "context": ""},
        {"instruction": "w3", "response": "w4", "context": "w5"},
    ]
    path = write_rows(tmp_path / "a.jsonl", *rows)
    found = [
        d.text
        for d in jsonl(path, "instruction", "", tokenizer, answer_field="response", context_field="context")
    ]
    assert found == ["<bos>[user] w1 [assistant] w2 ", "<bos>[user] w3\n\nw5 [assistant] w4 "]
    with pytest.raises(CorpusError, match=r"line 1 has no field 'reply'; it has context, instruction"):
        [*jsonl(path, "instruction", tokenizer=tokenizer, answer_field="reply")]
    write_rows(path, {"instruction": "w1", "response": None})
    with pytest.raises(CorpusError, match=r"line 1: field 'response' holds null, not an answer"):
        [*jsonl(path, "instruction", tokenizer=tokenizer, answer_field="response")]


def test_a_chat_of_another_shape_names_line_and_field(tmp_path: Path, tokenizer: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"turns": ["w1", "w2"]})
    with pytest.raises(CorpusError, match=r"line 1, field 'turns', turn 1 is a str; a conversation is"):
        [*jsonl(path, "turns", tokenizer=tokenizer)]


def test_a_hub_set_of_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    talk = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    write_rows(tmp_path / "set" / "train.jsonl", {"conversation": talk, "language": "English"})
    (found,) = hub(str(tmp_path / "set"), field="conversation", tokenizer=tokenizer)
    assert found.text == "<bos>[user] w1 [assistant] w2 "


def test_a_set_that_is_packed_with_zstandard_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as the mirror of The Pile is
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    lines = "\n".join(json.dumps({"text": f"w{i}", "meta": {"pile_set_name": "x"}}) for i in range(3))
    packed = zstandard.ZstdCompressor().compress(lines.encode())
    (tmp_path / "set" / "train.jsonl.zst").write_bytes(packed)
    assert [d.text for d in hub(str(tmp_path / "set"))] == ["w0", "w1", "w2"]


def test_hub_reads_a_local_folder_as_it_would_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write_rows(tmp_path / "set" / "train.jsonl", {"text": "x"}, {"text": "y"})
    found = [*hub(str(tmp_path / "set"), source="g")]
    assert [(d.text, d.source) for d in found] == [("x", "g"), ("y", "g")]
    with pytest.raises(CorpusError, match="row 0 has no field 'body'; it has text"):
        [*hub(str(tmp_path / "set"), field="body")]
    with pytest.raises(CorpusMissing, match=r"split 'dev'.*cannot be loaded"):
        [*hub(str(tmp_path / "set"), split="dev")]
    with pytest.raises(CorpusMissing, match=r"cannot be loaded.*corpus\.sources"):
        hub(str(tmp_path / "nothing"))


class Disconnected(Exception):
    """As the errors of the hub's HTTP client: of no kind that Python knows."""


def test_a_hub_that_cannot_be_reached_or_breaks_off_is_told() -> None:
    with (
        mock.patch("datasets.load_dataset", side_effect=Disconnected("no route")),
        pytest.raises(CorpusMissing, match=r"hub set 'some/set'.*cannot be loaded: no route"),
    ):
        hub("some/set")

    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "one"}
        raise Disconnected("timed out")

    # with the signature of the installed version
    with mock.patch("datasets.load_dataset", autospec=True, return_value=rows()):
        found = hub("some/set")
        assert next(found).text == "one"
        with pytest.raises(CorpusMissing, match=r"some/set broke off at row 1: timed out.*local file"):
            next(found)
