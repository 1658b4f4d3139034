"""Texts and prompts from files and data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from lrt.api.loading import STORYBOOK
from lrt.corpora.sources import JSON_FILES, Unit, hub_texts, texts_of
from lrt.errors import InvalidValue
from lrt.lab.grammar import Plan, pages
from lrt.storage.text_files import json_rows, read_lines


def read_texts(
    sources: Sequence[str | PathLike[str]],
    *,
    unit: Unit = "paragraph",
    field: str = "text",
    split: str = "train",
) -> Iterator[str]:
    """Documents of files, folders and data sets, one after another, read as far as they are asked for.

    sources  Each is a text file, a folder of `*.txt`, a `.jsonl` or `.json` file of objects, a data set of
             the hub (`org/name`, `org/name:CONFIG`, `org/name@REVISION`), or `storybook`: endless text of the
             shipped models' own world (`storybook:request` is one kind: story, request or question).
    unit     What a document of a text file is: `paragraph` (between blank lines), `line` or `file`.
    field    Of objects, the field with the text.
    split    Of a data set.

    Raises InvalidValue for any other source, at once; `CorpusError` (a `lrt.UserError`) for one
    that cannot be read.
    """
    if isinstance(sources, str | PathLike) or not sources:
        raise InvalidValue(f"`sources` is {sources!r}; it must be a list of files, folders and data sets")
    readers = [_texts(str(source), unit, field, split) for source in sources]
    return (text for reader in readers for text in reader)


def is_endless(source: str) -> bool:
    """Whether a source of `read_texts` is streamed, so that only a number of tokens ends it."""
    return not Path(source).exists()


def _texts(source: str, unit: Unit, field: str, split: str) -> Iterator[str]:
    path = Path(source).expanduser()
    if path.exists():
        return texts_of([path], unit, field)
    if source.startswith(STORYBOOK):
        return _storybook(source.removeprefix(STORYBOOK).removeprefix(":"))
    if (documents := hub_texts(source, field, split)) is not None:
        return (document.text for document in documents if not document.excluded)
    raise InvalidValue(
        f"text {source!r} does not exist; it must be a text file, a folder of *.txt, a .jsonl or .json file, "
        "a data set of the hub (org/name), or storybook"
    )


def _storybook(kind: str) -> Iterator[str]:
    match kind:
        case "":
            plan = Plan()
        case "story" | "request" | "question":
            plan = Plan(kind)
        case _:
            raise InvalidValue(
                f"text 'storybook:{kind}' does not exist; allowed: storybook, storybook:story, "
                "storybook:request, storybook:question"
            )
    return (page.text for page in pages(0, "held_out", plan))


def read_prompts(path: str | PathLike[str], field: str = "text") -> list[str]:
    """Contrastive prompts of a file: a line each, or of `.jsonl` and `.json` an object or a text each.

    A line of a text file cannot hold a line break; a JSON text can. Empty lines are skipped.

    field  Of objects, the field with the prompt.

    Raises InvalidValue for a file without prompts, and one that cannot be read (with the line).
    """
    file = Path(path).expanduser()
    if file.suffix in JSON_FILES:
        prompts = [_prompt(row, place, field) for place, row in json_rows(file)]
    else:
        prompts = [line for _, line in read_lines(file) if line.strip()]
    if not prompts:
        raise InvalidValue(f"{file} has no prompts; write one on each line")
    return prompts


def _prompt(row: object, place: str, field: str) -> str:
    if isinstance(row, dict):
        if field not in row:
            raise InvalidValue(f"{place} has no field {field!r}; it has {', '.join(map(repr, sorted(row)))}")
        row = row[field]
    if not isinstance(row, str):
        raise InvalidValue(f"{place} is a JSON {type(row).__name__}; it must be a text")
    return row
