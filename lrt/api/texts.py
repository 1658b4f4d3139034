"""Texts as arguments of a function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lrt.errors import InvalidValue


def checked_texts(texts: Iterable[str], argument: str) -> list[str]:
    """The texts as a list. Raises InvalidValue where there is none, and as `each_text`."""
    checked = [*each_text(texts, argument)]
    if not checked:
        raise InvalidValue(f"`{argument}` is empty; give at least one text")
    return checked


def each_text(texts: Iterable[str], argument: str) -> Iterator[str]:
    """The texts one by one.

    Raises InvalidValue, at once, for a single text, whose letters would be taken for texts, and for what
    cannot be iterated; on the way for an element that is no text.
    """
    if isinstance(texts, str | bytes):
        raise InvalidValue(f"`{argument}` is one text; it must be a list of texts: [{argument}]")
    if not isinstance(texts, Iterable):
        raise InvalidValue(f"`{argument}` is a {type(texts).__name__}; it must be a list of texts")
    return _each(texts, argument)


def _each(texts: Iterable[str], argument: str) -> Iterator[str]:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidValue(f"`{argument}[{number}]` is a {type(text).__name__}; it must be a text")
        yield text
