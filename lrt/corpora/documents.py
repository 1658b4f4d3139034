"""A document: the unit that is split, shuffled, grouped and resampled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


def text_id(text: str) -> int:
    """The first 63 bits of the text's sha256, which fit a signed 64-bit column."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Document:
    """One text of a corpus.

    source           Part of the mixture that it comes from.
    duplicate_group  Name shared by near-duplicates (one question with two answers). They fall into the
                     same split. Empty: the document is a group of its own.
    excluded         Why the text cannot be used; empty for a usable document. Readers yield unusable
                     documents so that packing can count them.
    """

    text: str
    source: str = ""
    duplicate_group: str = ""
    excluded: str = ""

    @property
    def id(self) -> int:
        """Hash of the text; the same in every run and mixture."""
        return text_id(self.text)

    @property
    def duplicate_group_id(self) -> int:
        """Hash of the near-duplicate group; it decides the split."""
        return text_id(self.duplicate_group) if self.duplicate_group else self.id
