"""Readers of documents: text files, jsonl files, data sets of the Hugging Face hub.

Each reader checks that its file or data set exists when it is called, and then yields documents lazily.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

from lrt.corpora.chats import chat_document
from lrt.corpora.documents import Document
from lrt.corpora.errors import ChatRefused, CorpusEmpty, CorpusError, CorpusMissing, TextUnusable
from lrt.corpora.hub_revisions import is_local, with_revision
from lrt.corpora.words import is_blank
from lrt.storage.text_files import BOM, FileUnreadable, json_rows, lone_surrogate, read_lines, read_text

log = logging.getLogger(__name__)

REFUSED = "rejected by the chat template"
NOT_TEXT = "not text (half of a surrogate pair)"
# if this many documents cannot be used and no other came before, the data set or field is wrong
FIRST = 16

JSON_FILES = (".jsonl", ".json")  # files of objects, each with a text among its fields

Unit = Literal["file", "paragraph", "line"]
Case = Literal["as_is", "upper"]


def text_files(
    paths: Sequence[str | Path], unit: Unit = "file", source: str = "", case: Case = "as_is"
) -> Iterator[Document]:
    """Documents from UTF-8 text files or folders of `*.txt`, in the order of `paths`.

    unit  What one document is: a whole file, a paragraph (text between blank lines) or a line. A book read
          as one file falls into one split; read it by paragraphs.
    case  `upper` writes every document in capitals, a style that few texts have.

    Raises:
        CorpusMissing: a path does not exist, or a folder has no `*.txt`.
        CorpusEmpty: a file has no text (while reading).
        CorpusError: `unit` or `case` is unknown, a file is one of JSON, whose text is in a field (`jsonl`
            reads it), or a file cannot be read as UTF-8 (while reading).
    """
    if case not in get_args(Case):
        raise CorpusError(f"unknown corpus case {case!r}; it must be one of {', '.join(get_args(Case))}")
    if unit not in get_args(Unit):
        raise CorpusError(f"unknown corpus unit {unit!r}; it must be one of {', '.join(get_args(Unit))}")
    files: list[Path] = []
    for path in map(Path, paths):
        texts = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not texts or not all(file.is_file() for file in texts):
            raise CorpusMissing(
                f"corpus path {path} is not a text file or a folder of *.txt files{_setting(source)}"
            )
        files += texts
    if not files:
        raise CorpusMissing(f"the corpus names no text file; name at least one{_setting(source)}")
    if of_json := [file for file in files if file.suffix in JSON_FILES]:
        raise CorpusError(
            f"corpus file {of_json[0]} is JSON, not plain text: its text is in a field. Read it with "
            f"kind=jsonl and its `field`, or rename it to .txt where it is the text itself{_setting(source)}"
        )
    return _text_documents(files, unit, source, case)


def texts_of(paths: Sequence[str | Path], unit: Unit = "file", field: str = "text") -> Iterator[str]:
    """Texts of files, in the order of `paths`: text files and folders as `text_files` reads them, `.jsonl`
    and `.json` files of objects as `jsonl` does, a text from each.

    unit   What one text of a text file is.
    field  Of objects, the field with the text.

    Raises what these two raise.
    """
    readers = [
        jsonl(path, field) if Path(path).suffix in JSON_FILES else text_files([path], unit) for path in paths
    ]
    return (document.text for reader in readers for document in reader if not document.excluded)


def hub_texts(name: str, field: str = "text", split: str = "train") -> Iterator[Document] | None:
    """Documents of a data set that is named in one text, `org/name`, `org/name:CONFIG` or with `@REVISION`
    behind; None for a text that names none. Raises as `hub`.
    """
    dataset, _, revision = name.partition("@")
    dataset, _, config = dataset.partition(":")
    if "/" not in dataset or is_local(dataset):
        return None
    return hub(dataset, config or None, split, field, revision or None)


def _setting(source: str) -> str:
    """The setting of a run where a source is named; other callers have files alone."""
    return f" (corpus.sources.{source})" if source else ""


def _text_documents(files: Sequence[Path], unit: Unit, source: str, case: Case) -> Iterator[Document]:
    for file in files:
        empty = True
        try:
            for text in _units(file, unit):
                if not is_blank(text):
                    empty = False
                    yield Document(text.upper() if case == "upper" else text, source)
        except FileUnreadable as error:
            raise CorpusError(f"corpus file {error}") from error
        if empty:
            raise CorpusEmpty(f"corpus file {file} has no text; name another{_setting(source)}")


def _units(file: Path, unit: Unit) -> Iterator[str]:
    if unit == "file":
        yield read_text(file)
        return
    if unit == "line":
        yield from (line for _, line in read_lines(file))
        return
    paragraph: list[str] = []
    for _, line in read_lines(file):
        if not is_blank(line):
            paragraph.append(line)
            continue
        yield "\n".join(paragraph)
        paragraph = []
    yield "\n".join(paragraph)


def jsonl(
    path: str | Path,
    field: str = "text",
    source: str = "",
    tokenizer: Any = None,
    answer_field: str = "",
    context_field: str = "",
) -> Iterator[Document]:
    """Documents from the field `field` of each object in a jsonl file, or in a `.json` file with one list.

    With a `tokenizer`, the value is a conversation (see `conversation`) and is rendered in its chat template.
    `answer_field` has the answer to a request, `context_field` a passage that the request is about. If the
    user speaks last, the assistant's turn is opened. A conversation that the template rejects (turns that do
    not alternate) is excluded and counted, and so is a text with half of a surrogate pair.

    Raises:
        CorpusMissing: the file does not exist.
        CorpusEmpty: it has no object (while reading).
        CorpusError: a line is not a JSON object, a field is missing, or its value is not text or a
            conversation (while reading); names the line and the existing fields.
        ChatRefused, TextUnusable: each of the first documents had to be excluded.
    """
    file = Path(path)
    if not file.is_file():
        raise CorpusMissing(f"corpus file {file} does not exist{_setting(source)}")
    columns = _Columns(field, answer_field, context_field)
    return _documents(_file_rows(file), f"corpus file {file}", columns, source, tokenizer)


def _file_rows(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        yield from json_rows(file)
    except FileUnreadable as error:
        raise CorpusError(f"corpus file {error}") from error


def hub(
    dataset: str,
    config: str | None = None,
    split: str = "train",
    field: str = "text",
    revision: str | None = None,
    source: str = "",
    tokenizer: Any = None,
    answer_field: str = "",
    context_field: str = "",
) -> Iterator[Document]:
    """Documents from a data set of the Hugging Face hub, or from a local folder of data files.

    dataset  Its id, `org/name` or `org/name@REVISION`, or the folder.

    The data set is streamed: no more of it is read than is used. Fields and `tokenizer` as in `jsonl`.

    Raises:
        CorpusMissing: the data set, its config or split cannot be loaded; includes the hub's reason.
        CorpusEmpty, CorpusError: as `jsonl`.
    """
    import datasets  # takes seconds, and only hub corpora need it

    dataset, revision = with_revision(dataset, revision)
    if dataset.startswith("~"):
        dataset = str(Path(dataset).expanduser())
    try:
        builder = datasets.load_dataset_builder(dataset, config) if Path(dataset).is_dir() else None
        files = (builder.config.data_files or {}).get(split, []) if builder else []
        if files and all(Path(file).suffix in (".txt", ".jsonl") for file in files):
            rows = _local_rows([Path(file) for file in files])
        else:
            rows = datasets.load_dataset(dataset, config, split=split, streaming=True, revision=revision)
    except Exception as error:  # no such data set, config or split, or the hub's HTTP client
        raise CorpusMissing(
            f"hub data set {dataset!r} (config {config!r}, split {split!r}, revision {revision!r}) "
            f"cannot be loaded: {error}. Fix its name, or use a local file{_setting(source)}"
        ) from error
    placed = _streamed(f"hub data set {dataset}", rows)
    columns = _Columns(field, answer_field, context_field)
    return _documents(placed, f"hub data set {dataset}", columns, source, tokenizer)


def _local_rows(files: Iterable[Path]) -> Iterator[Any]:
    """Rows of a local data set, whose lines have the meaning that they have to the other readers here."""
    for file in files:
        if file.suffix == ".txt":
            yield from ({"text": line} for _, line in read_lines(file))
        else:
            yield from (row for _, row in json_rows(file))


def _streamed(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Objects of a streamed data set, each after its place. Raises CorpusMissing if the stream breaks off."""
    remaining = iter(rows)
    for number in count():
        try:
            row = next(remaining)
        except StopIteration:
            return
        except FileUnreadable as error:
            raise CorpusError(f"corpus file {error}") from error
        except Exception as error:  # the hub's HTTP client raises errors of many classes
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
    rows: Iterable[tuple[str, Any]], name: str, columns: _Columns, source: str, tokenizer: Any
) -> Iterator[Document]:
    read, unusable = 0, Counter[str]()
    for place, row in rows:
        if not isinstance(row, Mapping):
            raise CorpusError(f"{place} is a JSON {type(row).__name__}, not an object with fields")
        read += 1
        try:
            document = _document(row, columns, place, source, tokenizer)
        except (ChatRefused, TextUnusable) as error:
            reason = REFUSED if isinstance(error, ChatRefused) else NOT_TEXT
            unusable[reason] += 1
            if unusable.total() == read == FIRST:
                raise
            if unusable[reason] == 1:
                log.warning("%s. Such documents are excluded and counted", error)
            yield Document("", source, excluded=reason)
        else:
            yield document
    if not read:
        raise CorpusEmpty(f"{name} has no rows; name another{_setting(source)}")


def _document(row: Mapping[str, Any], columns: _Columns, place: str, source: str, tokenizer: Any) -> Document:
    for field in (columns.field, columns.answer, columns.context):
        if field and field not in row:
            raise CorpusError(f"{place} has no field {field!r}; it has {', '.join(map(repr, sorted(row)))}")
    value = row[columns.field]
    used = [row[field] for field in (columns.field, columns.answer, columns.context) if field]
    if lone_surrogate(json.dumps(used, ensure_ascii=False, default=str)):
        raise TextUnusable(f"{place} has half of a surrogate pair (\\ud800 to \\udfff)")
    if tokenizer is not None:
        answer, context = (row[field] if field else None for field in (columns.answer, columns.context))
        if columns.answer and answer is None:
            raise CorpusError(f"{place}: field {columns.answer!r} is null, not an answer")
        where = f"{place}, field {columns.field!r}"
        return chat_document(value, tokenizer, where, answer, context, part=source)
    if not isinstance(value, str):
        chats = f"; a list of messages needs corpus.sources.{source}.chat=true" if source else ""
        raise CorpusError(f"{place}: field {columns.field!r} is a {type(value).__name__}, not text{chats}")
    return Document(value.lstrip(BOM), source)
