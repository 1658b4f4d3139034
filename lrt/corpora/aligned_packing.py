"""Aligned documents laid end to end and cut between spans, so that both models read the same text.

Each model has its own number of tokens for it. A sequence ends where the next span would be too much for
either, and shorter ones are padded at their end, where no token reads the padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrt.corpora.alignment import BOUNDS, AlignedText
from lrt.models.sides import SIDES, STAYS, Side

PADDING = -1
"""Token id after a sequence's last token, and document id after its last span."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AlignedPiece:
    """A document between what marks its beginning and end in each model.

    ids     By side, `[tokens]`; of several source models `[steps, models]`.
    bounds  [spans, 6], `BOUNDS`. The last span ends where both texts do. It has no characters where that is
            after the text that both share (the end of a chat's template).
    """

    document: int
    group: str
    ids: dict[Side, Ints]
    bounds: Ints

    @classmethod
    def of(
        cls,
        document: int,
        group: str,
        text: AlignedText,
        begin: Mapping[Side, tuple[int, ...] | Ints],
        end: Mapping[Side, tuple[int, ...] | Ints],
    ) -> AlignedPiece:
        """A text with the ids before and after it; those that it begins with itself are not repeated."""
        ids, bounds = {}, text.bounds.copy()
        if not all(bounds[-1, BOUNDS.index(f"stop.{side}")] == len(text.ids[side]) for side in SIDES):
            last = [n for side in SIDES for n in (len(text.ids[side]) - 1, len(text.ids[side]))]
            bounds = np.concatenate([bounds, [[*last, bounds[-1, -1], bounds[-1, -1]]]])
        for number, side in enumerate(SIDES):
            own = text.ids[side]
            opening, closing = (np.array(each[side]).reshape(-1, *own.shape[1:]) for each in (begin, end))
            opening = _not_repeated(opening, own)
            bounds[:, 2 * number : 2 * number + 2] += len(opening)
            ids[side] = np.concatenate([opening, own, closing]).astype(np.int64)
        return cls(document, group, ids, bounds)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of tokens by side."""
        return tuple(len(self.ids[side]) for side in SIDES)

    def cuts(self) -> Ints:
        """Where a sequence may end: numbers of source tokens, target tokens and spans before, `[cuts, 3]`."""
        text = self.bounds[self.bounds[:, -2] < self.bounds[:, -1]]
        before = np.arange(len(text))[:, None]
        opens = np.concatenate([text[:, [0, 2]], before], axis=1)
        closes = np.concatenate([text[:, [1, 3]], before + 1], axis=1)
        inner = np.stack([opens, closes], axis=1).reshape(-1, 3)
        if len(text) and (self.bounds[-1, [0, 2]] < text[-1, [1, 3]]).any() and len(text) < len(self.bounds):
            inner = inner[:-1]  # the end shares a model's last token with the span before: they stay together
        return np.concatenate([np.zeros((1, 3), dtype=np.int64), inner, [[*self.sizes, len(self.bounds)]]])


def steps_of(ids: Sequence[Sequence[int]]) -> Ints:
    """Ids of each of several models, as steps that they read together, `[steps, models]`."""
    steps = np.full((max(map(len, ids)), len(ids)), STAYS, dtype=np.int64)
    for column, each in enumerate(ids):
        steps[: len(each), column] = each
    return steps


def _not_repeated(opening: Ints, own: Ints) -> Ints:
    """The ids before a text, without those of a model whose text begins with them itself."""
    if own.ndim == 1:
        return opening[:0] if np.array_equal(own[: len(opening)], opening) else opening
    opening = opening.copy()
    for column in range(own.shape[1]):
        ids, text = (each[:, column][each[:, column] != STAYS] for each in (opening, own))
        if np.array_equal(text[: len(ids)], ids):
            opening[:, column] = STAYS
    read: Ints = opening[(opening != STAYS).any(axis=1)]
    return read


@dataclass(frozen=True)
class AlignedArrays:
    """Sequences of both models, `[sequences, context]` each and `[sequences, context, 6]` the bounds.

    Several source models have `[sequences, context, models]` tokens.

    Bounds, documents and groups are of the sequence's spans, the rest of its tokens. Bounds of tokens are
    counted from the sequence's first.
    """

    tokens: dict[Side, npt.NDArray[np.int32]]
    bounds: npt.NDArray[np.int32]
    documents: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int16]


def cut_aligned(
    pieces: Sequence[AlignedPiece], names: Sequence[str], context: int, most: float
) -> AlignedArrays:
    """At most so many sequences of pieces laid end to end. What is left at the end is dropped.

    Also dropped is what fits no sequence: text between two boundaries with more than `context` tokens.
    """
    index = {name: i for i, name in enumerate(names)}
    sizes = np.array([[*piece.sizes, len(piece.bounds)] for piece in pieces], dtype=np.int64).reshape(-1, 3)
    before = np.cumsum(sizes, axis=0) - sizes
    shapes = {side: pieces[0].ids[side].shape[1:] if pieces else () for side in SIDES}
    empty = {side: np.zeros((0, *shape), dtype=np.int64) for side, shape in shapes.items()}
    ids = {side: np.concatenate([empty[side], *(piece.ids[side] for piece in pieces)]) for side in SIDES}
    owners = np.repeat(np.array([piece.document for piece in pieces], dtype=np.int64), sizes[:, 2])
    groups = np.repeat(np.array([index[piece.group] for piece in pieces], dtype=np.int64), sizes[:, 2])
    columns = len(BOUNDS)
    bounds, cuts = [np.zeros((0, columns), dtype=np.int64)], [np.zeros((0, 3), dtype=np.int64)]
    for piece, offset in zip(pieces, before, strict=True):
        bounds.append(piece.bounds + np.array([offset[0]] * 2 + [offset[1]] * 2 + [0, 0]))
        cuts.append(piece.cuts() + offset)
    every, at = np.concatenate(bounds), np.concatenate(cuts)
    at = at[np.append(True, (at[1:] != at[:-1]).any(axis=1))] if len(at) else at
    runs = list(_runs(at, context, most))
    arrays = AlignedArrays(
        {
            side: np.full((len(runs), context, *shape), PADDING, dtype=np.int32)
            for side, shape in shapes.items()
        },
        np.zeros((len(runs), context, columns), dtype=np.int32),
        np.full((len(runs), context), PADDING, dtype=np.int64),
        np.zeros((len(runs), context), dtype=np.int16),
    )
    for number, (first, last) in enumerate(runs):
        for column, side in enumerate(SIDES):
            here = ids[side][at[first, column] : at[last, column]]
            arrays.tokens[side][number, : len(here)] = here
        start = np.array([at[first, 0]] * 2 + [at[first, 1]] * 2 + [0, 0])
        own = np.arange(at[first, 2], at[last, 2])
        arrays.bounds[number, : len(own)] = every[own] - start
        arrays.documents[number, : len(own)] = owners[own]
        arrays.groups[number, : len(own)] = groups[own]
    return arrays


def _runs(cuts: Ints, context: int, most: float) -> Iterator[tuple[int, int]]:
    """The first and last cut of each sequence: the longest with at most `context` of everything."""
    at, count = 0, 0
    columns = [np.ascontiguousarray(column) for column in cuts.T]  # a search would copy them each time
    while at < len(cuts) - 1 and count < most:
        fitting = [np.searchsorted(column, column[at] + context, side="right") for column in columns]
        last = int(min(fitting)) - 1
        if last == at:
            at += 1
        elif last == len(cuts) - 1 and (cuts[last] - cuts[at]).max() < context:
            return
        else:
            yield at, last
            at, count = last, count + 1
