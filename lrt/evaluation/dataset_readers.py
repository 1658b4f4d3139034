"""Readers of published evaluation sets: local files, or data sets of the Hugging Face hub, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrt.corpora import with_revision
from lrt.errors import InvalidValue
from lrt.storage.text_files import FileUnreadable, json_rows, lone_surrogate, parse_json


class SetUnreadable(InvalidValue):
    """An evaluation set that is missing or malformed; the message says where and what."""


def file_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON list or of a jsonl file. Raises `SetUnreadable`."""
    form = "JSON list of objects" if file.suffix == ".json" else "jsonl file of objects"
    try:
        for place, row in json_rows(file):
            yield _object(row, place)
    except InvalidValue as error:
        raise SetUnreadable(
            f"{file} cannot be read as an evaluation set: it must be a {form} ({error})"
        ) from error


def hub_rows(
    path: str, split: str = "train", revision: str | None = None, subset: str | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a data set of the hub, or of a subset of it, streamed. Raises `SetUnreadable`."""
    if Path(path).expanduser().is_file():
        raise SetUnreadable(f"{path}: a file must end in .json or .jsonl; convert or rename it")
    import datasets  # slow to import, and only hub data sets need it

    path, revision = with_revision(path, revision)
    with _hub_errors(f"hub set {path!r} (subset {subset!r}, split {split!r}, revision {revision!r})"):
        rows = datasets.load_dataset(path, name=subset, split=split, streaming=True, revision=revision)
        yield from map(dict, rows)


def hub_file_rows(path: str, file: str, revision: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows of one jsonl file of a hub data set, streamed. Raises `SetUnreadable`.

    Read as lines of text: a field's type may differ between rows, and `datasets` no longer loads data sets
    with a loading script by name.
    """
    import datasets

    path, revision = with_revision(path, revision)
    place = f"hf://datasets/{path}@{revision or 'main'}/{file}"
    with _hub_errors(f"hub file {place}"):
        lines = datasets.load_dataset("text", data_files=place, split="train", streaming=True)
        for number, line in enumerate(lines, start=1):
            if line["text"].strip():
                yield _row(line["text"], f"{place} line {number}")


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        return _object(parse_json(line, place, number_lines=False), place)
    except FileUnreadable as error:
        raise SetUnreadable(str(error)) from error


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SetUnreadable(f"{place} must be a JSON object; got {type(row).__name__}")
    return row


def field_of(row: Mapping[str, Any], name: str, place: str) -> str:
    """A field's text. Raises `SetUnreadable` naming the place and the row's fields."""
    value = row.get(name)
    if not isinstance(value, str):
        kind = "missing" if value is None else f"a {type(value).__name__}"
        raise SetUnreadable(
            f"{place}: field {name!r} is {kind}, it must be text; the row has "
            f"{', '.join(map(repr, sorted(row)))}"
        )
    if lone_surrogate(value):
        raise SetUnreadable(f"{place}: field {name!r} has half of a surrogate pair (\\ud800 to \\udfff)")
    return value


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn errors of the hub's client into `SetUnreadable`, with what was to be loaded."""
    try:
        yield
    except SetUnreadable:
        raise
    except Exception as error:  # missing data set, file or split, or the hub's HTTP client
        raise SetUnreadable(
            f"{what} cannot be loaded: {error}. Without access to the hub, name a local folder or file"
        ) from error
