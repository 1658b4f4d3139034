"""Decontamination: no map is fitted on text that holds contrastive prompts or evaluation items."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from unicodedata import normalize

from lrt.corpora.words import count_words, pieces

ANCHOR_PIECES = 4
"""Words in a row, as `lrt.corpora.words.pieces` gives them, by which a text is looked up in documents."""

_Anchor = tuple[str, ...]


class Decontaminator:
    """Recognises documents that equal, begin with or contain a text of the exclusion list, whatever the
    Unicode normal form of either.

    Equality is by hash of the stripped text. Texts of at least `begun_from_words` words are compared with a
    document's beginning, and of at least `contained_from_words` words with all of it: a short prompt such
    as "Once upon a time" is in half of all stories without leaking anything. Words are counted as in
    `lrt.corpora.words`. The search costs one pass over a document's words, whatever the number of texts and
    whatever they have in common.
    """

    def __init__(
        self, texts: Iterable[str], contained_from_words: int = 8, begun_from_words: int = 5
    ) -> None:
        if contained_from_words < 3:
            # the anchor has to be a word with a whole word on either side
            raise ValueError(f"contained_from_words={contained_from_words}; it must be at least 3")
        stripped = sorted({normalize("NFC", text).strip() for text in texts} - {""})
        self.texts = tuple(stripped)
        self._whole = {_digest(text) for text in stripped}
        self._by_anchor: dict[_Anchor, list[str]] = defaultdict(list)
        contained = [text for text in stripped if count_words(text) >= contained_from_words]
        anchors = {text: _anchors_of(text) for text in contained}
        lists = Counter(anchor for some in anchors.values() for anchor in some)
        for text, some in anchors.items():
            # what many texts have in common, as a template, would be in many documents
            self._by_anchor[min(some, key=lambda anchor: (lists[anchor], anchor))].append(text)
        self._lengths = sorted({len(anchor) for anchor in self._by_anchor})
        self._begun = tuple(
            text for text in stripped if begun_from_words <= count_words(text) < contained_from_words
        )

    def matches(self, text: str) -> bool:
        """Whether a document is, begins with or contains a text of the exclusion list."""
        if not self._whole:
            return False
        text = normalize("NFC", text)
        if _digest(text.strip()) in self._whole:
            return True
        if self._begun and text.lstrip().startswith(self._begun):
            return True
        if not self._by_anchor:
            return False
        words = pieces(text)
        present = (self._by_anchor.keys() & _windows(words, length) for length in self._lengths)
        return any(item in text for anchors in present for each in anchors for item in self._by_anchor[each])


def _anchors_of(text: str) -> set[_Anchor]:
    words = pieces(text, inner=True)
    return _windows(words, min(len(words), ANCHOR_PIECES))


def _windows(words: list[str], length: int) -> set[_Anchor]:
    """Every so many pieces that follow each other."""
    return {*zip(*(words[start:] for start in range(length)), strict=False)}


def shared_documents(
    documents: Iterable[tuple[int, str]], texts: Mapping[str, Iterable[str]]
) -> dict[str, list[int]]:
    """By name of a list of texts, the ids of the documents that it recognises.

    documents  Ids and texts.
    """
    lists = {name: Decontaminator(each) for name, each in texts.items()}
    ids: dict[str, list[int]] = {name: [] for name in lists}
    # what is in none of the lists, as nearly every document, is looked at once and not once for each list
    every = Decontaminator(text for each in lists.values() for text in each.texts)
    for id_, text in documents:
        if every.matches(text):
            for name, own in lists.items():
                if own.matches(text):
                    ids[name].append(id_)
    return ids


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
