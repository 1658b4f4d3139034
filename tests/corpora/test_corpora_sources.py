import json
import re
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
    Document,
    Part,
    hub,
    jsonl,
    mixture,
    pack,
    text_files,
    texts_of,
)
from lrt.corpora.errors import ChatRefused
from lrt.corpora.sources import FIRST, NOT_TEXT, REFUSED

TEXT = "one\ntwo\n\n\nthree\n  \nfour"


def turns(*roles: str) -> dict[str, Any]:
    return {"c": [{"role": role, "content": f"w{number}"} for number, role in enumerate(roles)]}


def test_conversations_that_the_template_rejects_are_excluded_and_counted(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [turns("user", "assistant") for _ in range(30)]
    for number, row in enumerate(rows):
        row["c"][0]["content"] = " ".join(["w1"] * (number + 8))  # no two alike
    rows[3] = rows[20] = turns("system")  # which this template takes before a user alone
    path = write_rows(tmp_path / "a.jsonl", *rows)
    read = [*jsonl(path, "c", "g", tokenizer)]
    assert [number for number, d in enumerate(read) if d.excluded] == [3, 20]
    (message,) = (r.getMessage() for r in caplog.records)
    assert "a.jsonl line 7" in message
    packed = pack(mixture([Part("g", read)]), tokenizer, 8, dict.fromkeys(SPLITS, 16))
    assert packed.documents_excluded == {REFUSED: 2}


def test_a_data_set_whose_first_conversations_are_all_rejected(tmp_path: Path, tokenizer: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", *[turns("system")] * (FIRST + 1))
    read = jsonl(path, "c", "g", tokenizer)
    with pytest.raises(ChatRefused):
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
    documents = [*text_files([tmp_path / "a.txt"], unit, source="g")]
    assert [d.text for d in documents] == expected
    assert {d.source for d in documents} == {"g"}


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert [d.text for d in text_files([tmp_path])] == ["a", "b"]
    assert [d.text for d in text_files([tmp_path], case="upper")] == ["A", "B"]


def test_missing_text_is_an_error_when_the_reader_is_created(tmp_path: Path) -> None:
    with pytest.raises(CorpusMissing, match=r"gone\.txt"):
        text_files([tmp_path / "gone.txt"])
    with pytest.raises(CorpusMissing, match=str(tmp_path)):
        text_files([tmp_path])
    with pytest.raises(CorpusMissing, match=r"no text file"):
        text_files([])
    with pytest.raises(CorpusError, match=r"'word'.*file, paragraph, line"):
        text_files([tmp_path], unit="word")  # type: ignore[arg-type]
    with pytest.raises(CorpusError, match=r"'small'.*as_is, upper"):
        text_files([tmp_path], case="small")  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["", "stories"])
def test_messages_name_the_setting_of_a_run_and_of_nothing_else(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "list.jsonl").write_text('{"text": []}\n')
    readings = (
        lambda: text_files([], source=source),
        lambda: text_files([tmp_path / "gone"], source=source),
        lambda: [*text_files([tmp_path / "empty.txt"], source=source)],
        lambda: jsonl(tmp_path / "gone", source=source),
        lambda: [*jsonl(tmp_path / "empty.jsonl", source=source)],
        lambda: [*jsonl(tmp_path / "list.jsonl", source=source)],
    )
    for reading in readings:
        with pytest.raises(CorpusError) as refused:
            reading()
        named = [f"corpus.sources.{source}"] if source else []
        assert re.findall(r"corpus\.sources\.?\w*", str(refused.value)) == named


def test_files_that_are_not_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(" \n ")
    with pytest.raises(CorpusEmpty, match=r"a\.txt"):
        [*text_files([file], "line")]
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match=r"a\.txt is not UTF-8"):
        [*text_files([file])]
    documents = text_files([file])
    file.unlink()
    with pytest.raises(CorpusError, match=r"a\.txt"):
        next(documents)


@pytest.mark.parametrize("unit", ["file", "paragraph", "line"])
def test_byte_order_marks_are_no_text(tmp_path: Path, unit: Any) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\r\n\xef\xbb\xbftwo")
    assert [d.text for d in text_files([file], unit)] == (
        ["one\n\ntwo"] if unit == "file" else ["one", "two"]
    )
    for blank in ("\ufeff", "\ufeff\ufeff\n\u200b\n"):
        file.write_text(blank, encoding="utf-8")
        with pytest.raises(CorpusEmpty, match=r"a\.txt"):
            [*text_files([file], unit)]
    file.write_bytes(b"one\n\ntwo\n\xe9")
    with pytest.raises(CorpusError, match=r"a\.txt.*line 4"):
        [*text_files([file], unit)]


def test_documents_with_half_of_a_surrogate_pair_are_excluded_and_counted(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": " ".join(["w1"] * (number + 8)), "note": "\ud800"} for number in range(30)]
    rows[2]["text"] = rows[9]["text"] = "a \udc00"
    path = write_rows(tmp_path / "a.jsonl", *rows)
    for chat in (None, tokenizer):
        caplog.clear()
        read = [*jsonl(path, tokenizer=chat)]
        assert [number for number, d in enumerate(read) if d.excluded] == [2, 9]
        (message,) = (r.getMessage() for r in caplog.records)
        assert "a.jsonl line 5" in message
    packed = pack(mixture([Part("g", read)]), tokenizer, 8, dict.fromkeys(SPLITS, 16))
    assert packed.documents_excluded == {NOT_TEXT: 2}
    write_rows(path, *[{"text": "\ud800"}] * (FIRST + 1))
    with pytest.raises(CorpusError, match=f"line {2 * FIRST - 1}"):
        [*jsonl(path)]


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    return path


def test_jsonl_takes_the_field(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"body": "x", "n": 1}, {"body": "y"})
    assert [d.text for d in jsonl(path, "body", "g")] == ["x", "y"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ('{"body": "x"}', CorpusError, r"line 1.*'text'.*body"),
        ('{"text": 3}', CorpusError, r"line 1.*'text'.*int"),
        ('{"text": [{}]}', CorpusError, "is a list"),
        ('{"text": "x"}\n{"te', CorpusError, "line 2"),
        ('["x"]', CorpusError, "line 1.*list"),
        ('{"text": "x"}\n{"text": ' + "9" * 5000 + "}", CorpusError, "line 2.*digits"),
        ('{"text": "x"}\n' + "[" * 100_000, CorpusError, "line 2.*nested"),
        ('{"text": "x"}\n{"text": "x", "text": "y"}', CorpusError, "line 2.*'text' twice"),
        ("\n", CorpusEmpty, "a.jsonl"),
    ],
)
def test_jsonl_that_is_wrong_names_the_line(
    tmp_path: Path, content: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(error, match=message):
        [*jsonl(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_is_not_read_as_plain_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": "one"}')
    with pytest.raises(CorpusError, match="kind=jsonl") as raised:
        text_files([tmp_path / name], "line", "mine")
    assert "corpus.sources.mine" in str(raised.value)


def test_texts_of_both_kinds_of_files_are_read_in_their_order(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "a.jsonl", {"text": "one\ntwo"}, {"text": "three"})
    (tmp_path / "b.txt").write_text("four\n\nfive")
    assert [*texts_of([tmp_path / "b.txt", rows], "paragraph")] == ["four", "five", "one\ntwo", "three"]
    with pytest.raises(CorpusMissing):
        texts_of([tmp_path / "none.jsonl"])
    with pytest.raises(CorpusError, match="'text'"):
        [*texts_of([rows], field="body")]


def test_a_missing_jsonl_is_an_error_when_the_reader_is_created(tmp_path: Path) -> None:
    with pytest.raises(CorpusMissing, match=r"a\.jsonl"):
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
        ("[1]", "item 1.*int"),
        ('{"text": "x"}', "a.json is a JSON dict"),
        ("[", "a.json is not JSON"),
        ("[]", "a.json has no rows"),
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
    documents = jsonl(path, "instruction", "", tokenizer, answer_field="response", context_field="context")
    assert [document.text for document in documents] == [
        "<bos>[user] w1 [assistant] w2 ",
        "<bos>[user] w3\n\nw5 [assistant] w4 ",
    ]
    with pytest.raises(CorpusError, match=r"line 1.*'reply'"):
        [*jsonl(path, "instruction", tokenizer=tokenizer, answer_field="reply")]
    write_rows(path, {"instruction": "w1", "response": None})
    with pytest.raises(CorpusError, match=r"line 1.*'response'"):
        [*jsonl(path, "instruction", tokenizer=tokenizer, answer_field="response")]


def test_a_chat_of_another_shape_names_line_and_field(tmp_path: Path, tokenizer: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"turns": ["w1", "w2"]})
    with pytest.raises(CorpusError, match=r"line 1, field 'turns', turn 1"):
        [*jsonl(path, "turns", tokenizer=tokenizer)]


def test_a_hub_data_set_of_conversations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    talk = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    write_rows(tmp_path / "set" / "train.jsonl", {"conversation": talk, "language": "English"})
    (document,) = hub(str(tmp_path / "set"), field="conversation", tokenizer=tokenizer)
    assert document.text == "<bos>[user] w1 [assistant] w2 "


def test_a_data_set_compressed_with_zstandard_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as the mirror of The Pile is
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    lines = "\n".join(json.dumps({"text": f"w{i}", "meta": {"pile_set_name": "x"}}) for i in range(3))
    packed = zstandard.ZstdCompressor().compress(lines.encode())
    (tmp_path / "set" / "train.jsonl.zst").write_bytes(packed)
    assert [d.text for d in hub(str(tmp_path / "set"))] == ["w0", "w1", "w2"]


def test_hub_reads_a_local_folder_like_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write_rows(tmp_path / "set" / "train.jsonl", {"text": "x"}, {"text": "y"})
    documents = [*hub(str(tmp_path / "set"), source="g")]
    assert [(d.text, d.source) for d in documents] == [("x", "g"), ("y", "g")]
    with pytest.raises(CorpusError, match=r"row 0.*'body'"):
        [*hub(str(tmp_path / "set"), field="body")]
    with pytest.raises(CorpusMissing, match="'dev'"):
        [*hub(str(tmp_path / "set"), split="dev")]
    with pytest.raises(CorpusMissing, match="nothing"):
        hub(str(tmp_path / "nothing"))


def test_hub_reads_lines_of_a_local_folder_as_the_other_readers_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def read(name: str, content: bytes) -> list[Any]:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"train.{name}").write_bytes(content)
        return [*hub(str(tmp_path / name))]

    assert [d.text for d in read("txt", b"\xef\xbb\xbfhello\r\n\xef\xbb\xbf\nthere")] == [
        "hello",
        "",
        "there",
    ]
    rows = b'\xef\xbb\xbf{"text": "a"}\n{"text": "a \\ud83d b"}\n{"text": "\\ufeffok"}\n{"text": "\\ufeff"}'
    documents = read("jsonl", rows)
    assert [(d.text, d.excluded) for d in documents] == [("a", ""), ("", NOT_TEXT), ("ok", ""), ("", "")]
    (tmp_path / "jsonl" / "train.jsonl").write_bytes(b'{"text": "a"}\n{"text": [}')
    with pytest.raises(CorpusError, match="line 2"):
        [*hub(str(tmp_path / "jsonl"))]
    # in other formats, too, nothing that can be seen is no text
    blank = mixture([Part("g", [Document("\u200b", "g")])])
    with pytest.raises(CorpusEmpty, match="1 empty"):
        pack(blank, tokenizer, 8, {"train": 8})


def test_a_missing_field_beside_a_key_that_no_console_prints(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"k\\ud83d": 1}')
    with pytest.raises(CorpusError, match="'text'") as caught:
        [*jsonl(path)]
    str(caught.value).encode()


class Disconnected(Exception):
    """Like the errors of the hub's HTTP client, which derive from Exception alone."""


def test_hub_reads_a_folder_of_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write_rows(tmp_path / "set" / "train.jsonl", {"text": "one"})
    assert [document.text for document in hub("~/set")] == ["one"]


def test_a_hub_that_cannot_be_reached_or_breaks_off() -> None:
    with (
        mock.patch("datasets.load_dataset", side_effect=Disconnected("no route")),
        pytest.raises(CorpusMissing, match=r"some/set.*no route"),
    ):
        hub("some/set")

    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "one"}
        raise Disconnected("timed out")

    # with the signature of the installed version
    with mock.patch("datasets.load_dataset", autospec=True, return_value=rows()):
        documents = hub("some/set")
        assert next(documents).text == "one"
        with pytest.raises(CorpusMissing, match=r"some/set.*row 1.*timed out"):
            next(documents)
