"""A document: the unit that is split, shuffled, grouped and resampled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lrt.models.sides import Side


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
    target_text      What the target reads, where that is another text: a chat in a template of its own.
    shared           Runs of characters that both texts hold: where each begins in `text` and in
                     `target_text`, and its length. Not read where both models read `text`.
    """

    text: str
    source: str = ""
    duplicate_group: str = ""
    excluded: str = ""
    target_text: str | None = None
    shared: tuple[tuple[int, int, int], ...] = ()

    def read_by(self, side: Side) -> str:
        """The text that a model reads."""
        return self.text if side == "source" or self.target_text is None else self.target_text

    @property
    def shared_text(self) -> tuple[tuple[int, int, int], ...]:
        """The runs of characters that both models read."""
        return ((0, 0, len(self.text)),) if self.target_text is None else self.shared

    @property
    def id(self) -> int:
        """Hash of the text; the same in every run and mixture."""
        return text_id(self.text)

    @property
    def duplicate_group_id(self) -> int:
        """Hash of the near-duplicate group; it decides the split."""
        return text_id(self.duplicate_group) if self.duplicate_group else self.id
