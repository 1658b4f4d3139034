"""Where documents come from: text files, jsonl files, sets on the Hugging Face hub.

Each reader checks its place when it is called, before the first document is asked for, and then
yields lazily.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from lrt.corpora.documents import Document
from lrt.corpora.errors import CorpusEmpty, CorpusError, CorpusMissing

Unit = Literal["file", "paragraph", "line"]


def text_files(paths: Sequence[str | Path], unit: Unit = "file", group: str = "") -> Iterator[Document]:
    """Documents from UTF-8 text files (or folders of `*.txt`), in the order given.

    `unit` says what one document is: a whole file, a paragraph (text between blank lines) or a
    line. A book read as one file is one document and falls into one split; read it by paragraphs.

    Raises:
        CorpusMissing: a path is not there, or a folder holds no `*.txt`.
        CorpusEmpty: a file holds no text (as it is read).
        CorpusError: `unit` is unknown, or a file is not UTF-8 (as it is read).
    """
    if unit not in get_args(Unit):
        raise CorpusError(f"corpus unit {unit!r} is unknown; it is one of {', '.join(get_args(Unit))}")
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            raise CorpusMissing(
                f"corpus path {path} is not a text file or a folder of *.txt files; mend corpus.sources"
            )
        files += found
    if not files:
        raise CorpusMissing("no text files were named; give at least one under corpus.sources")
    return _text_documents(files, unit, group)


def _text_documents(files: Sequence[Path], unit: Unit, group: str) -> Iterator[Document]:
    for file in files:
        some = False
        try:
            for text in _units(file, unit):
                if text.strip():
                    some = True
                    yield Document(text, group)
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
    path: str | Path, field: str = "text", group: str = "", tokenizer: Any = None
) -> Iterator[Document]:
    """Documents from a jsonl file: the value of `field` in each line.

    With a `tokenizer` the value is written in its chat template: a string becomes one user turn
    with the assistant's turn opened after it, a list of `{"role": ..., "content": ...}` becomes the
    conversation.

    Raises:
        CorpusMissing: the file is not there.
        CorpusEmpty: it holds no line (as it is read).
        CorpusError: a line is not a JSON object, or `field` is missing or not text (as it is read);
            the message names the line and the fields there are.
    """
    file = Path(path)
    if not file.is_file():
        raise CorpusMissing(f"corpus file {file} is not there; mend corpus.sources")
    return _jsonl_documents(file, field, group, tokenizer)


def _jsonl_documents(file: Path, field: str, group: str, tokenizer: Any) -> Iterator[Document]:
    some = False
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{file} line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise CorpusError(
                    f"{file} line {number} is a JSON {type(row).__name__}, not an object with fields"
                )
            some = True
            yield Document(_text(row, field, f"{file} line {number}", tokenizer), group)
    if not some:
        raise CorpusEmpty(f"corpus file {file} holds no line; take it out of corpus.sources")


def hub(
    dataset: str,
    config: str | None = None,
    split: str = "train",
    field: str = "text",
    streamed: bool = True,
    revision: str | None = None,
    group: str = "",
    tokenizer: Any = None,
) -> Iterator[Document]:
    """Documents from a set on the Hugging Face hub, or from a local folder of data files.

    `streamed` reads no more of the set than is used. `tokenizer` as in `jsonl`.

    Raises:
        CorpusMissing: the set, its config or split cannot be loaded; the message gives the hub's
        own reason.
        CorpusEmpty, CorpusError: as `jsonl`.
    """
    import datasets  # takes seconds, and only hub corpora need it

    try:
        rows = datasets.load_dataset(dataset, config, split=split, streaming=streamed, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:  # missing set, config or split; no network
        raise CorpusMissing(
            f"hub set {dataset!r} (config {config!r}, split {split!r}, revision {revision!r}) "
            f"cannot be loaded: {error}. Mend corpus.sources, or use a local file"
        ) from error
    return _hub_documents(rows, dataset, field, group, tokenizer)


def _hub_documents(
    rows: Iterable[Mapping[str, Any]], dataset: str, field: str, group: str, tokenizer: Any
) -> Iterator[Document]:
    some = False
    for number, row in enumerate(rows):
        some = True
        yield Document(_text(row, field, f"hub set {dataset} row {number}", tokenizer), group)
    if not some:
        raise CorpusEmpty(f"hub set {dataset} holds no row; take it out of corpus.sources")


def _text(row: Mapping[str, Any], field: str, place: str, tokenizer: Any) -> str:
    if field not in row:
        raise CorpusError(f"{place} has no field {field!r}; it has {', '.join(sorted(row))}")
    value = row[field]
    if tokenizer is not None:
        return as_chat(value, tokenizer, place)
    if not isinstance(value, str):
        raise CorpusError(
            f"{place}: field {field!r} holds a {type(value).__name__}, not text; a list of "
            "messages needs the chat template (chat: true for this source)"
        )
    return value


def as_chat(value: str | Sequence[Mapping[str, str]], tokenizer: Any, place: str = "text") -> str:
    """A request, or a conversation, written in the tokenizer's chat template (text, not ids).

    A string becomes a user turn and the opened assistant's turn. Raises CorpusError, naming
    `place`, where the tokenizer has no template or its template refuses the conversation (some take
    no system role).
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise CorpusError(f"{place}: this tokenizer has no chat template; use chat: false or another model")
    opened = isinstance(value, str)
    messages = [{"role": "user", "content": value}] if opened else value
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened)
    except Exception as error:  # whatever a template of the checkpoint's own raises
        raise CorpusError(f"{place}: the chat template refuses it: {error}") from error
    return str(rendered)
