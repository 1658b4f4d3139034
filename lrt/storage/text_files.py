"""Text, JSON and JSON lines as other people write them.

The one reader of such files. Whatever cannot be read raises `FileUnreadable`, which names file and line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from lrt.errors import InvalidValue

MOST_BYTES = 2**31  # of a file that is read whole
LONGEST_LINE = 2**28  # characters
BOM = "\ufeff"
_LONE = re.compile("[\ud800-\udfff]")
_NOT_TEXT = {
    b"\xff\xfe\0\0": "UTF-32; convert it",
    b"\0\0\xfe\xff": "UTF-32; convert it",
    b"\xff\xfe": "UTF-16; convert it",
    b"\xfe\xff": "UTF-16; convert it",
    b"\x1f\x8b": "compressed with gzip; decompress it",
    b"\x28\xb5\x2f\xfd": "compressed with zstandard; decompress it",
    b"\xfd7zXZ": "compressed with xz; decompress it",
    b"BZh9": "compressed with bzip2; decompress it",
    b"PK\x03\x04": "a zip archive; unpack it",
}
# a key; another string; the start or end of a level
_MARK = re.compile(
    r'(?P<key>"(?:[^"\\]|\\.)*")\s*:|"(?:[^"\\]|\\.)*"(?!\s*:)|(?P<open>[\[{])|(?P<close>[\]}])', re.DOTALL
)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_DEEP = 200  # levels; a parser that gave up at more is shown the line where this many are reached
_DIGITS = re.compile(r"\d{1000,}")


class FileUnreadable(InvalidValue):
    """A file that is not text, or not JSON; the message names the file, the line and what to do."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file with their numbers from 1, without their ends (`\\n`, `\\r\\n` or `\\r`).

    Byte order marks at the start of a line are removed: files put together have some. Raises `FileUnreadable`
    for a file that is missing or not UTF-8, a NUL character, and a line over `LONGEST_LINE`.
    """
    return ((number, line.removesuffix("\n")) for number, line in _lines(path))


def read_text(path: Path) -> str:
    """A text file's content, as `read_lines`. Raises `FileUnreadable` for one over `MOST_BYTES` too."""
    if path.is_file() and (size := path.stat().st_size) > MOST_BYTES:
        raise FileUnreadable(
            f"{path} has {size:,} bytes; a file that is read whole may have {MOST_BYTES:,}. Split it, or "
            "write it as lines"
        )
    return "".join(line for _, line in _lines(path))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise FileUnreadable(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    try:
        with path.open("rb") as file:
            start = file.read(8)
        for signature, kind in _NOT_TEXT.items():
            if start.startswith(signature):
                raise FileUnreadable(f"{path} is not UTF-8 text but {kind}")
        # bytes that are not UTF-8 become lone surrogates here, so that their line is known
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise FileUnreadable(
                        f"{path} line {number} is longer than {LONGEST_LINE:,} characters; split the file"
                    )
                if lone := _LONE.search(line):
                    raise FileUnreadable(
                        f"{path} is not UTF-8 text: line {number} has the byte "
                        f"0x{ord(lone.group()) & 0xFF:02x}; convert it"
                    )
                if "\0" in line:
                    raise FileUnreadable(
                        f"{path} line {number} has a NUL character, so it is not text; convert the file"
                    )
                yield number, line.lstrip(BOM)
    except OSError as error:
        raise FileUnreadable(f"{path} cannot be read: {error.strerror}") from error


def read_json(path: Path, *, nan: bool = False) -> Any:
    """The value of a JSON file.

    nan  Whether NaN and the infinities are allowed, which are not standard.

    Raises `FileUnreadable` as `read_text`, and for what is not standard JSON or ambiguous: NaN and the
    infinities, a key that an object has twice, half a surrogate pair.
    """
    text = read_text(path)
    value = parse_json(text, str(path), nan=nan)
    if any(map(lone_surrogate, _texts(value))):
        line = next((_line_at(text, m.start()) for m in _STRING.finditer(text) if _is_lone(m.group())), "")
        raise FileUnreadable(f"{path} has half of a surrogate pair (\\ud800 to \\udfff){line}")
    return value


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Values of a JSON lines file, or of a `.json` file with one list, each after its place for messages.

    Empty lines are skipped. A value's texts may still hold lone surrogates (`lone_surrogate`). Raises
    `FileUnreadable`, while reading, as `read_lines` and `parse_json`.
    """
    if path.suffix == ".json":
        rows = parse_json(read_text(path), str(path))
        if not isinstance(rows, list):
            raise FileUnreadable(f"{path} is a JSON {type(rows).__name__}, not a list of objects")
        yield from ((f"{path} item {number}", row) for number, row in enumerate(rows, start=1))
        return
    for number, line in read_lines(path):
        if line.strip():
            place = f"{path} line {number}"
            yield place, parse_json(line, place, number_lines=False)


def parse_json(text: str | bytes, place: str, *, nan: bool = True, number_lines: bool = True) -> Any:
    """The value of a JSON text.

    place         Where it is from, for messages.
    nan           Whether NaN and the infinities are allowed, as Python and pandas write them.
    number_lines  Whether messages name the line within the text.

    Raises `FileUnreadable` for what is not JSON, nesting or numbers that the parser cannot take, and a key
    that an object has twice.
    """

    def refused(reason: str, where: str = "") -> FileUnreadable:
        return FileUnreadable(f"{place} is not JSON: {reason}{where if number_lines else ''}")

    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(
            text,
            parse_constant=None if nan else _refuse_constant,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise refused(f"{error.msg} in column {error.colno}", f" of line {error.lineno}") from error
    except RecursionError as error:
        raise refused("it is nested too deeply", _line_of_fault(str(text), _DEEP)) from error
    except _Refused as error:
        raise refused(str(error), error.where(str(text))) from error
    except UnicodeDecodeError as error:
        raise refused(f"it is not UTF-8 text ({error.reason})") from error
    except ValueError as error:  # more digits than an int may have
        raise refused("a number has too many digits", _line_of(str(text), _DIGITS)) from error


def _is_lone(string: str) -> bool:
    """Whether a JSON string, in its quotation marks, has half of a surrogate pair."""
    return lone_surrogate(json.loads(string))


def lone_surrogate(text: str) -> bool:
    """Whether a text has half of a surrogate pair, which no encoding and no tokenizer takes."""
    return _LONE.search(text) is not None


class _Refused(Exception):
    """JSON that the parser takes and this module does not; `where` tells its line in a text."""

    def __init__(self, reason: str, where: Callable[[str], str]) -> None:
        super().__init__(reason)
        self.where = where


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON number", lambda text: _line_of(text, re.compile(name)))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    contents = dict(pairs)
    if len(contents) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in contents if keys.count(key) > 1)
        raise _Refused(f"an object has the key {twice!r} twice", _line_of_fault)
    return contents


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys among them."""
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case list() as items:
                left += items
            case dict() as contents:
                left += [*contents, *contents.values()]


def _line_of(text: str, pattern: re.Pattern[str]) -> str:
    place = pattern.search(text)
    return _line_at(text, place.start()) if place else ""


def _line_of_fault(text: str, deepest: float = math.inf) -> str:
    """Where an object first has a key twice, or more than `deepest` levels are open."""
    levels: list[set[str]] = []
    for mark in _MARK.finditer(text):
        if mark["open"]:
            levels.append(set())
            if len(levels) > deepest:
                return _line_at(text, mark.start())
        elif mark["close"]:
            levels[-1:] = []
        elif mark["key"] and levels:
            if (key := json.loads(mark["key"])) in levels[-1]:
                return _line_at(text, mark.start())
            levels[-1].add(key)
    return ""


def _line_at(text: str, at: int) -> str:
    return f" in line {text.count(chr(10), 0, at) + 1}"
