"""Checks the structure of GGUF files, which may come from strangers, before another reader takes them.

The package `gguf` believes the sizes that a file states: a number of entries that the file does not have
makes it run, and take memory, without end. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from lrt.errors import InvalidValue

VERSIONS = (2, 3)
MOST_DIMENSIONS = 4
LONGEST_TEXT = 2**28  # bytes
LONGEST_NAME = 2**16 - 1  # bytes
# struct's letter of each scalar type by its number in the format; 8 is a text, 9 an array
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_TEXT, _ARRAY = 8, 9


class GgufDamaged(InvalidValue):
    """A GGUF file whose structure is broken; the message names the file and the fault."""


@dataclass(frozen=True)
class GgufContents:
    """What a GGUF file states of itself.

    metadata  Scalars and texts by key; of an array its length.
    shapes    Of the tensors, by name, the fastest dimension first.
    """

    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    @property
    def numbers(self) -> int:
        """Numbers in all tensors."""
        return sum(map(math.prod, self.shapes.values()))


def check_gguf(path: Path) -> GgufContents:
    """Read the header of a GGUF file. Its entries are checked to be within the file, the tensors' types not.

    Raises `GgufDamaged`.
    """
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            return _Header(data).read()
    except (_Broken, ValueError, OSError, struct.error) as error:
        raise GgufDamaged(f"{path} is not a whole GGUF file: {error}; download it again") from error


class _Broken(Exception):
    """A fault in a file's structure."""


class _Header:
    """Reads a header from its start; every step checks that the file is long enough."""

    def __init__(self, data: mmap) -> None:
        self.data, self.at, self.order = data, 0, "<"

    def read(self) -> GgufContents:
        if self._bytes(4) != b"GGUF":
            raise _Broken("it does not begin with GGUF")
        if self.data[4:6] == b"\0\0":  # the version's upper half: the file is big-endian
            self.order = ">"
        if (version := self._number("I")) not in VERSIONS:
            raise _Broken(f"it has version {version}; supported are {VERSIONS}")
        tensors, keys = self._count("Q", 24), self._count("Q", 13)
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._name("key", metadata)
            metadata[key] = self._value(self._number("I"))
        shapes: dict[str, tuple[int, ...]] = {}
        offsets = []
        for _ in range(tensors):
            name = self._name("tensor", shapes)
            dimensions = self._number("I")
            if dimensions > MOST_DIMENSIONS:
                raise _Broken(
                    f"the tensor {name!r} has {dimensions} dimensions; at most {MOST_DIMENSIONS} allowed"
                )
            shapes[name] = tuple(self._number("Q") for _ in range(dimensions))
            self._number("I")  # its type
            offsets.append((name, self._number("Q")))
        for name, offset in offsets:
            # no type packs more than eight numbers in a byte
            if self.at + offset + math.prod(shapes[name]) // 8 > len(self.data):
                raise _Broken(f"the tensor {name!r} of shape {shapes[name]} goes beyond its end")
        return GgufContents(metadata, shapes)

    def _bytes(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise _Broken(f"it ends at {len(self.data)} bytes, within an entry of {length}")
        if length > LONGEST_TEXT:
            raise _Broken(f"a text has {length} bytes; at most {LONGEST_TEXT} allowed")
        self.at += length
        return self.data[self.at - length : self.at]

    def _number(self, letter: str) -> Any:
        (value,) = struct.unpack(self.order + letter, self._bytes(struct.calcsize("<" + letter)))
        return value

    def _count(self, letter: str, least: int) -> int:
        """A number of entries of at least so many bytes each."""
        count = int(self._number(letter))
        if count * least > len(self.data) - self.at:
            raise _Broken(f"it states {count} entries, which do not fit its {len(self.data)} bytes")
        return count

    def _name(self, what: str, known: dict[str, Any]) -> str:
        name = self._text()
        if len(name) > LONGEST_NAME or name in known:
            raise _Broken(f"the name of a {what} is longer than {LONGEST_NAME} or used twice: {name[:80]!r}")
        return name

    def _text(self) -> str:
        return self._bytes(self._number("Q")).decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind != _ARRAY:
            raise _Broken(f"{kind} is no type of a value")
        inner = self._number("I")
        if inner in _SCALARS:
            size = struct.calcsize("<" + _SCALARS[inner])
            count = self._count("Q", size)
            self.at += count * size
        elif inner == _TEXT:
            count = self._count("Q", 8)
            for _ in range(count):
                self._bytes(self._number("Q"))
        else:
            raise _Broken(f"an array of type {inner} is not supported")
        return count
