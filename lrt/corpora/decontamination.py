"""Decontamination: contrastive prompts and evaluation items must not be in a map's corpus."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable

_WORD = re.compile(r"\w+")


class Decontaminator:
    """Recognises documents that equal, begin with or contain a text of the exclusion list.

    Equality is by hash of the stripped text. Texts of at least `begun_from_words` words are compared with a
    document's beginning, and of at least `contained_from_words` words with all of it: a short prompt such
    as "Once upon a time" is in half of all stories without leaking anything. The search costs one pass over
    a document's words, whatever the number of texts.
    """

    def __init__(
        self, texts: Iterable[str], contained_from_words: int = 8, begun_from_words: int = 5
    ) -> None:
        if contained_from_words < 3:
            # the anchor has to be a word with a whole word on either side
            raise ValueError(f"contained_from_words={contained_from_words}; it must be at least 3")
        stripped = sorted({text.strip() for text in texts} - {""})
        self._whole = {_digest(text) for text in stripped}
        self._by_anchor: dict[str, list[str]] = defaultdict(list)
        for text in stripped:
            words = _WORD.findall(text)
            if len(words) >= contained_from_words:
                # an inner word is a whole word of every document with the text; the longest is rarest
                self._by_anchor[max(words[1:-1], key=len)].append(text)
        self._anchors = set(self._by_anchor)
        self._begun = tuple(
            text for text in stripped if begun_from_words <= len(_WORD.findall(text)) < contained_from_words
        )
        self.digest = _digest("\0".join([str(contained_from_words), str(begun_from_words), *stripped]))

    def __len__(self) -> int:
        return len(self._whole)

    def matches(self, text: str) -> bool:
        """Whether a document is, begins with or contains a text of the exclusion list."""
        if not self._whole:
            return False
        if _digest(text.strip()) in self._whole:
            return True
        if self._begun and text.lstrip().startswith(self._begun):
            return True
        if not self._anchors:
            return False
        present = self._anchors.intersection(_WORD.findall(text))
        return any(item in text for anchor in present for item in self._by_anchor[anchor])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
