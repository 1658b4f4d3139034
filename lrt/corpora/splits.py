"""Train, validation and test split of a document, decided by a hash of its text.

The split does not depend on other documents, their order or the tokenizer. Two corpora that share a text
put it into the same split.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# shares of documents in train, validation and test
FRACTIONS = (0.8, 0.1, 0.1)


def split_of(document_id: int, seed: int = 0) -> Split:
    """The split of the document with this id (of its near-duplicate group, see `Document`).

    seed  Draws another partition.
    """
    digest = hashlib.sha256(f"{seed}:{document_id}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < FRACTIONS[0]:
        return "train"
    return "validation" if draw < FRACTIONS[0] + FRACTIONS[1] else "test"
