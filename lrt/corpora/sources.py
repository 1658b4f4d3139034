"""Where documents come from: text files, jsonl files, sets on the Hugging Face hub.

Each reader checks its place when it is called, before the first document is asked for, and then
yields lazily.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

from lrt.corpora.chats import as_chat
from lrt.corpora.documents import Document
from lrt.corpora.errors import ChatRefused, CorpusEmpty, CorpusError, CorpusMissing

log = logging.getLogger(__name__)

REFUSED = "refused by the chat template"
FIRST = 16  # conversations: where a template refuses them all, it is the wrong set or the wrong field

Unit = Literal["file", "paragraph", "line"]
Case = Literal["as_is", "upper"]


def text_files(
    paths: Sequence[str | Path], unit: Unit = "file", source: str = "", case: Case = "as_is"
) -> Iterator[Document]:
    """Documents from UTF-8 text files (or folders of `*.txt`), in the order given.

    `unit` says what one document is: a whole file, a paragraph (text between blank lines) or a
    line. A book read as one file is one document and falls into one split; read it by paragraphs.
    `case=upper` writes every document in capitals, so that a map sees a style that few texts have.

    Raises:
        CorpusMissing: a path is not there, or a folder holds no `*.txt`.
        CorpusEmpty: a file holds no text (as it is read).
        CorpusError: `unit` or `case` is unknown, or a file is not UTF-8 (as it is read).
    """
    if case not in get_args(Case):
        raise CorpusError(f"corpus case {case!r} is unknown; it is one of {', '.join(get_args(Case))}")
    if unit not in get_args(Unit):
        raise CorpusError(f"corpus unit {unit!r} is unknown; it is one of {', '.join(get_args(Unit))}")
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            raise CorpusMissing(
                f"corpus path {path} is not a text file or a folder of *.txt files; fix corpus.sources"
            )
        files += found
    if not files:
        raise CorpusMissing("no text files were named; give at least one under corpus.sources")
    return _text_documents(files, unit, source, case)


def _text_documents(files: Sequence[Path], unit: Unit, source: str, case: Case) -> Iterator[Document]:
    for file in files:
        some = False
        try:
            for text in _units(file, unit):
                if text.strip():
                    some = True
                    yield Document(text.upper() if case == "upper" else text, source)
        except UnicodeDecodeError as error:
            raise CorpusError(f"corpus file {file} is not UTF-8 text: {error}") from error
        if not some:
            raise CorpusEmpty(f"corpus file {file} holds no text; take it out of corpus.sources")


def _units(file: Path, unit: Unit) -> Iterator[str]:
    if unit == "file":
        yield file.read_text(encoding="utf-8")
        return
    with file.open(encoding="utf-8") as lines:
        if unit == "line":
            for line in lines:
                yield line.rstrip("\n")
            return
        paragraph: list[str] = []
        for line in lines:
            if line.strip():
                paragraph.append(line)
                continue
            yield "".join(paragraph).rstrip("\n")
            paragraph = []
        yield "".join(paragraph).rstrip("\n")


def jsonl(
    path: str | Path,
    field: str = "text",
    source: str = "",
    tokenizer: Any = None,
    answer_field: str = "",
    context_field: str = "",
) -> Iterator[Document]:
    """Documents from a jsonl file, or from a `.json` file that holds one list: `field` of each object.

    With a `tokenizer` the value is written as a conversation in its chat template, in whatever shape it
    is (see `conversation`); `answer_field` is where the answer to a request stands, `context_field` a
    passage that the request is about. Where the user speaks last, the assistant's turn is opened. A
    conversation that the template refuses (turns that do not alternate) is left out and counted.

    Raises:
        CorpusMissing: the file is not there.
        CorpusEmpty: it holds no row (as it is read).
        CorpusError: a row is not a JSON object, a field is missing, or holds neither text nor (of chats)
            a conversation (as it is read); the message names the row and the fields there are.
        ChatRefused: the template refuses each of the first conversations.
    """
    file = Path(path)
    if not file.is_file():
        raise CorpusMissing(f"corpus file {file} is not there; fix corpus.sources")
    columns = _Columns(field, answer_field, context_field)
    return _documents(json_rows(file), f"corpus file {file}", columns, source, tokenizer)


def json_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Every row of a jsonl file, or of a `.json` file that holds one list, and its place, for messages.

    Raises CorpusError for what is not JSON, no list or not UTF-8, OSError for a file that is not there; all
    as it is read.
    """
    if file.suffix == ".json":
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CorpusError(f"{file} is not JSON: {error}") from error
        if not isinstance(rows, list):
            raise CorpusError(f"{file} is a JSON {type(rows).__name__}, not a list of objects")
        yield from ((f"{file} item {number}", row) for number, row in enumerate(rows, start=1))
        return
    number = 0
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file} line {number}", json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(f"{file} line {number} is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} is not UTF-8 text after line {number}: {error}") from error


def hub(
    dataset: str,
    config: str | None = None,
    split: str = "train",
    field: str = "text",
    streamed: bool = True,
    revision: str | None = None,
    source: str = "",
    tokenizer: Any = None,
    answer_field: str = "",
    context_field: str = "",
) -> Iterator[Document]:
    """Documents from a set on the Hugging Face hub, or from a local folder of data files.

    `streamed` reads no more of the set than is used. The fields and `tokenizer` are as in `jsonl`.

    Raises:
        CorpusMissing: the set, its config or split cannot be loaded; the message gives the hub's
        own reason.
        CorpusEmpty, CorpusError: as `jsonl`.
    """
    import datasets  # takes seconds, and only hub corpora need it

    try:
        rows = datasets.load_dataset(dataset, config, split=split, streaming=streamed, revision=revision)
    except Exception as error:  # no such set, config or split, or what the hub's HTTP client raises
        raise CorpusMissing(
            f"hub set {dataset!r} (config {config!r}, split {split!r}, revision {revision!r}) "
            f"cannot be loaded: {error}. Mend corpus.sources, or use a local file"
        ) from error
    placed = _streamed(f"hub set {dataset}", rows)
    columns = _Columns(field, answer_field, context_field)
    return _documents(placed, f"hub set {dataset}", columns, source, tokenizer)


def _streamed(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Rows with their places. Raises CorpusMissing where the hub breaks off."""
    left = iter(rows)
    for number in count():
        try:
            row = next(left)
        except StopIteration:
            return
        except Exception as error:  # what the hub's HTTP client raises is of many kinds
            raise CorpusMissing(
                f"{name} broke off at row {number}: {error}. Run the command again, or use a local file"
            ) from error
        yield f"{name} row {number}", row


@dataclass(frozen=True)
class _Columns:
    field: str
    answer: str
    context: str


def _documents(
    rows: Iterable[tuple[str, Any]], whole: str, columns: _Columns, source: str, tokenizer: Any
) -> Iterator[Document]:
    read = refused = 0
    for place, row in rows:
        if not isinstance(row, Mapping):
            raise CorpusError(f"{place} is a JSON {type(row).__name__}, not an object with fields")
        read += 1
        try:
            text = _text(row, columns, place, tokenizer)
        except ChatRefused as error:
            refused += 1
            if refused == read == FIRST:
                raise
            if refused == 1:
                log.warning("%s. Such conversations are left out and counted", error)
            yield Document("", source, left_out=REFUSED)
        else:
            yield Document(text, source)
    if not read:
        raise CorpusEmpty(f"{whole} holds no row; take it out of corpus.sources")


def _text(row: Mapping[str, Any], columns: _Columns, place: str, tokenizer: Any) -> str:
    for field in (columns.field, columns.answer, columns.context):
        if field and field not in row:
            raise CorpusError(f"{place} has no field {field!r}; it has {', '.join(sorted(row))}")
    value = row[columns.field]
    if tokenizer is not None:
        answer, context = (row[field] if field else None for field in (columns.answer, columns.context))
        if columns.answer and answer is None:
            raise CorpusError(f"{place}: field {columns.answer!r} holds null, not an answer")
        return as_chat(value, tokenizer, f"{place}, field {columns.field!r}", answer, context)
    if not isinstance(value, str):
        raise CorpusError(
            f"{place}: field {columns.field!r} holds a {type(value).__name__}, not text; a list of "
            "messages needs the chat template (chat: true for this source)"
        )
    return value
