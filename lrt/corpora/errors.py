"""Errors of corpora. Every message names the setting to change."""

from __future__ import annotations

from lrt.errors import InvalidValue


class CorpusError(InvalidValue):
    """A corpus cannot be read or used."""


class CorpusMissing(CorpusError):
    """A file, folder or data set that the corpus names does not exist."""


class CorpusEmpty(CorpusError):
    """The corpus has no usable document."""


class CorpusTooShort(CorpusError):
    """A split has fewer tokens than one sequence; `split` and `tokens` say which and how many."""

    def __init__(self, message: str, split: str, tokens: int) -> None:
        super().__init__(message)
        self.split, self.tokens = split, tokens


class TextUnusable(CorpusError):
    """A text of the corpus that no tokenizer takes."""


class ChatRefused(CorpusError):
    """A model's chat template rejects a conversation of the corpus."""


class NotAligned(CorpusError):
    """A text whose tokens in two models cannot be paired; the message says why."""
