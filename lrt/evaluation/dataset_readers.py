"""Rows of evaluation sets as their authors publish them: files, or sets of the hub, streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrt.corpora import json_rows


class SetUnreadable(ValueError):
    """An evaluation set that is not there or not of the expected form; the message says where and what."""


def file_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON list or of a jsonl file. Raises `SetUnreadable`."""
    form = "JSON list of objects" if file.suffix == ".json" else "jsonl file of objects"
    try:
        for place, row in json_rows(file):
            yield _object(row, place)
    except (OSError, ValueError) as error:
        raise SetUnreadable(
            f"{file} cannot be read as an evaluation set: it is no {form} ({error})"
        ) from error


def hub_rows(path: str, split: str = "train", revision: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a set of the hub, streamed. Raises `SetUnreadable`."""
    import datasets  # takes seconds, and only hub sets need it

    with _told(f"hub set {path!r} (split {split!r}, revision {revision!r})"):
        yield from map(dict, datasets.load_dataset(path, split=split, streaming=True, revision=revision))


def hub_file_rows(path: str, file: str, revision: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows of one jsonl file of a hub set, streamed. Raises `SetUnreadable`.

    Read as lines: the types of a field may differ between rows, and a set that has a loading script
    cannot be loaded by its name any more.
    """
    import datasets

    place = f"hf://datasets/{path}@{revision or 'main'}/{file}"
    with _told(f"hub file {place}"):
        lines = datasets.load_dataset("text", data_files=place, split="train", streaming=True)
        for number, line in enumerate(lines, start=1):
            if line["text"].strip():
                yield _row(line["text"], f"{place} line {number}")


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SetUnreadable(f"{place} is not JSON: {error}") from error
    return _object(row, place)


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SetUnreadable(f"{place} is a JSON {type(row).__name__}, not an object with fields")
    return row


def field_of(row: Mapping[str, Any], name: str, place: str) -> str:
    """A field's text; raises `SetUnreadable` naming the place and the fields there are."""
    value = row.get(name)
    if not isinstance(value, str):
        held = "nothing" if value is None else f"a {type(value).__name__}"
        raise SetUnreadable(
            f"{place}: field {name!r} holds {held}, not text; there are {', '.join(sorted(row))}"
        )
    return value


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Says of what an error of the hub is."""
    try:
        yield
    except SetUnreadable:
        raise
    except Exception as error:  # no such set, file or split, or what the hub's HTTP client raises
        raise SetUnreadable(
            f"{what} cannot be loaded: {error}. Where the hub cannot be reached, name a local folder or file"
        ) from error
