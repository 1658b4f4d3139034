import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt.storage import text_files
from lrt.storage.text_files import (
    FileUnreadable,
    json_rows,
    lone_surrogate,
    parse_json,
    read_json,
    read_lines,
    read_text,
)


def test_text_is_read_without_byte_order_marks_and_with_any_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo\u2028more\r\ufeff\n\n\ufeff\ufeffé".encode())
    assert read_text(file) == "one\ntwo\u2028more\n\n\né"
    assert list(read_lines(file)) == [(1, "one"), (2, "two\u2028more"), (3, ""), (4, ""), (5, "é")]
    for content in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(content)
        assert read_text(file) == ""


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a\nb".encode("utf-16"), "UTF-16"),
        ("a\nb".encode("utf-32"), "UTF-32"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x28\xb5\x2f\xfd\0", "zstandard"),
        (b"PK\x03\x04", "zip"),
        (b"a\n\nb\xe9c", "line 3 has the byte 0xe9"),
        (b"a\n\xed\xa0\x80", "line 2 has the byte 0xed"),  # a lone surrogate, encoded
        ("a\nb".encode("utf-16-le"), "line 1 has a NUL"),
        (b"a\n" + b"x" * 101, "line 2 is longer than 100"),
    ],
)
def test_what_is_not_text_names_file_and_line(
    content: bytes, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LONGEST_LINE", 100)
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    for read in (read_text, read_lines):
        with pytest.raises(FileUnreadable, match=fault) as caught:
            list(read(file))
        assert str(file) in str(caught.value)


def test_what_is_not_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")  # would wait for a writer
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "gone", Path("/dev/zero")):
        with pytest.raises(FileUnreadable, match=str(path)):
            read_json(path)
    (tmp_path / "a").write_text("12345")
    monkeypatch.setattr(text_files, "MOST_BYTES", 4)
    with pytest.raises(FileUnreadable, match=r"a has 5 bytes"):
        read_text(tmp_path / "a")


DEEP = '{"a":\n' + '[{"b":' * 100_000
FAULTS = [
    ('{"a": 1,\n\n "b" 2}', "line 3"),
    ("[1,\n" + "9" * 5000 + "]", "digits in line 2"),
    (DEEP, "nested too deeply in line 2"),
    ('{"a": 1,\n "b": {"a": "a:"},\n "a": 2}', "'a' twice in line 3"),
    ('{"a": "\\"a\\"",\n "é": 1,\n "\\u00e9": 2}', "'é' twice in line 3"),
    ('{"a":\n NaN}', "NaN .* in line 2"),
    ("[1,\n -Infinity]", "-Infinity .* in line 2"),
    ('["\\ud83d\\ude00",\n "\\ud83d"]', "surrogate .* in line 2"),
    ('{"a": 1,\n "\\udc00": 2}', "surrogate .* in line 2"),
    ('["\\\\ud800",\n "\\\\\\ud83d"]', "surrogate .* in line 2"),
    ("", "line 1"),
    ("{} {}", "line 1"),
]


@pytest.mark.parametrize(("text", "fault"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_json_that_cannot_be_used_names_file_and_line(text: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("\ufeff" + text, encoding="utf-8")
    with pytest.raises(FileUnreadable, match=fault) as caught:
        read_json(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_rows_of_lists_and_lines(tmp_path: Path) -> None:
    lines, whole = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n[NaN, "\\ud800"]')
    rows = list(json_rows(lines))
    assert [place for place, _ in rows] == [f"{lines} line 1", f"{lines} line 3"]
    assert rows[0][1] == {"a": 1}
    assert lone_surrogate(rows[1][1][1])
    whole.write_bytes(b'\xef\xbb\xbf[{"a": 1}]')
    assert list(json_rows(whole)) == [(f"{whole} item 1", {"a": 1})]
    for bad in ("{", DEEP.replace("\n", ""), "9" * 5000, '{"a": 1, "a": 2}'):
        lines.write_text(f"{{}}\n{bad}\n")
        with pytest.raises(FileUnreadable, match=r"a\.jsonl line 2 is not JSON"):
            list(json_rows(lines))
    whole.write_text("{}")
    with pytest.raises(FileUnreadable, match="dict, not a list"):
        list(json_rows(whole))


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=40)
    | st.text(st.sampled_from('[]{}":,\\ud8N9eE+-. \n\0\ufeffxé'), max_size=40).map(str.encode)
)
def test_any_bytes_are_read_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(content)
    for read in (read_text, read_json, json_rows, read_lines):
        try:
            result: Any = read(file)
            list(result) if read in (json_rows, read_lines) else json.dumps(result).encode()
            message = str(file)
        except FileUnreadable as error:
            message = str(error)
        assert str(file) in message


def test_bytes_of_a_reply() -> None:
    assert parse_json(b'{"a": "\xc3\xa9"}', "the reply") == {"a": "é"}
    with pytest.raises(FileUnreadable, match="the reply is not JSON"):
        parse_json(b"\xff", "the reply")
