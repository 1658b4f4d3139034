import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from upstream_files import write_rows

from lrt.evaluation.dataset_readers import SetUnreadable, field_of, file_rows, hub_file_rows, hub_rows

ROWS = [{"question": "a\u2028b", "n": 1}, {"question": "c", "n": [2]}]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_lists_and_lines_give_the_same_rows(name: str, tmp_path: Path) -> None:
    assert list(file_rows(write_rows(tmp_path / name, ROWS))) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("gone.json", None, "gone"),
        ("a.json", "{", "JSON list"),
        ("a.json", "{}", "JSON list"),
        ("a.json", "[1]", "JSON list"),
        ("a.jsonl", '{"a": 1}\n\n{', "line 3"),
        ("a.jsonl", "[1]", "line 1"),
        ("a.jsonl", "{}\n" + "[" * 100_000, "line 2"),
        ("a.jsonl", '{}\n{"a": ' + "9" * 5000 + "}", "line 2"),
    ],
)
def test_unreadable_files_are_named(name: str, content: str | None, place: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SetUnreadable, match=place) as caught:
        list(file_rows(tmp_path / name))
    assert name in str(caught.value)


def test_hub_sets_and_their_files_are_streamed() -> None:
    lines = [{"text": json.dumps(row)} for row in ROWS] + [{"text": " "}]
    for line, fault in (("{", "not JSON"), ("[1]", "list")):
        bad = [{"text": line}]
        with (
            mock.patch("datasets.load_dataset", autospec=True, return_value=bad),
            pytest.raises(SetUnreadable, match=fault),
        ):
            list(hub_file_rows("org/set", "persona/x.jsonl"))
    with mock.patch("datasets.load_dataset", autospec=True, return_value=lines) as load:
        assert list(hub_file_rows("org/set", "persona/x.jsonl", "abc")) == ROWS
    assert load.call_args.args == ("text",)
    assert load.call_args.kwargs["data_files"] == "hf://datasets/org/set@abc/persona/x.jsonl"
    with mock.patch("datasets.load_dataset", autospec=True, return_value=ROWS) as whole:
        assert list(hub_rows("org/set", "test", subset="all")) == ROWS
    assert whole.call_args.args == ("org/set",)
    assert whole.call_args.kwargs == {"name": "all", "split": "test", "streaming": True, "revision": None}
    assert load.call_args.kwargs["streaming"] is True


@pytest.mark.parametrize("late", [False, True])
def test_errors_of_the_hub_are_raised_when_it_is_opened_or_read(late: bool) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("no such file")

    def rows() -> Any:
        yield {"text": "{}"}
        broken()

    behaves = {"return_value": rows()} if late else {"side_effect": broken}
    with (
        mock.patch("datasets.load_dataset", autospec=True, **behaves),
        pytest.raises(SetUnreadable, match=r"hf://datasets/o/s@main/f\.jsonl.*no such file"),
    ):
        list(hub_file_rows("o/s", "f.jsonl"))


def test_fields_must_be_text() -> None:
    assert field_of({"a": "x"}, "a", "here") == "x"
    with pytest.raises(SetUnreadable, match="'b' is missing"):
        field_of({"a": "x", "c": 1}, "b", "here")
    with pytest.raises(SetUnreadable, match=r"here.*'a'.*surrogate"):
        field_of({"a": "x\ud800"}, "a", "here")
    with pytest.raises(SetUnreadable, match="'c' is a int"):
        field_of({"a": "x", "c": 1}, "c", "here")
