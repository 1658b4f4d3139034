"""Train, validation and test by document, decided from the text alone.

A document's split does not depend on the corpus around it, on order or on the tokenizer, so two
corpora that share a text never put it on different sides.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Raises ValueError unless the three shares are non-negative and sum to one."""
    whole = math.isclose(sum(fractions), 1.0, abs_tol=1e-6)
    if len(fractions) != 3 or min(fractions) < 0 or not whole:
        raise ValueError(
            f"fractions is {tuple(fractions)}; it takes three shares (train, validation, "
            "test), none negative, that sum to 1"
        )


def split_of(
    document_id: int, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1), seed: int = 0
) -> Split:
    """The split that the document with this id belongs to.

    `fractions` are the shares of train, validation and test; `seed` draws another partition.
    Raises ValueError where the shares do not sum to one.
    """
    check_fractions(fractions)
    digest = hashlib.sha256(f"{seed}:{document_id}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < fractions[0]:
        return "train"
    # a share of zero stays empty even where rounding leaves draw == 1.0
    if draw < fractions[0] + fractions[1] or fractions[2] == 0:
        return "validation" if fractions[1] > 0 else "train"
    return "test"
