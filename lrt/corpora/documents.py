"""A document: the unit that splits, shuffles, groups and bootstraps are made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


def text_id(text: str) -> int:
    """The first 63 bits of the text's sha256, so that it fits a signed 64-bit column."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Document:
    """One text. `source` names the part of a mixture that it came from; `duplicate_group`, where it has some, what it
    shares with other documents (a question with another answer behind it), which then fall into one split.
    `left_out` is why it is none: what a source could not read as text stays in the stream, to be counted.
    """

    text: str
    source: str = ""
    duplicate_group: str = ""
    left_out: str = ""

    @property
    def id(self) -> int:
        """Identity of the document: a hash of its text, the same in every run and mixture."""
        return text_id(self.text)

    @property
    def duplicate_group_id(self) -> int:
        """What decides the split."""
        return text_id(self.duplicate_group) if self.duplicate_group else self.id
