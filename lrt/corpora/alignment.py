"""Texts that models read in different tokens, as spans of characters that all of them cut out.

A span begins and ends where tokens of all models do, and holds at least one token of each. Nothing shorter
can be compared between them. A character that one model cuts into several tokens, as byte-level vocabularies
do, lies within one span.

Several source models of unlike tokenizers read a text in steps (`side_by_side`). A span has as many steps as
the model with the most tokens there. A model with fewer tokens stays at its last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple
from unicodedata import category, normalize

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from lrt.corpora.documents import Document
from lrt.corpora.errors import NotAligned
from lrt.models.sides import STAYS, Side

VERSION = 1
"""Of what the spans of a text are."""
WINDOW = 32
"""Tokens in a row of which three quarters must be what their offsets say."""

BOUNDS = ("start.source", "stop.source", "start.target", "stop.target", "start.text", "stop.text")
"""What is known of a span: its tokens in each model, and its characters in the document's text."""

_DROPPED = frozenset(("Mn", "Me", "Cf", "Cc"))  # marks, formats, controls
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Token ids of a text, and the characters that each token is of: `start` to `stop`.

    ids  [tokens]; of several models [steps, models], with `STAYS` where a model reads no further token.
    """

    ids: Ints
    start: Ints
    stop: Ints

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class AlignedText:
    """A document in the tokens of both models.

    ids     By side.
    bounds  [spans, 6] int64, the spans in order, with the columns `BOUNDS`.
    """

    ids: dict[Side, Ints]
    bounds: Ints


def check_offsets(tokenizer: Any, side: str) -> None:
    """Raise NotAligned for a tokenizer whose rules are code, which does not say what its tokens are of."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise NotAligned(
            f"the {side}'s tokenizer ({type(tokenizer).__name__}) does not say which characters a token is "
            "of, so models of other tokenizers cannot be paired with it; choose a model with a tokenizer.json"
        )


class OffsetTokenizer:
    """A tokenizer's rules for the text itself: ids and offsets without what it puts around texts.

    tokenizer  One of transformers, with a Rust backend.

    Raises NotAligned for one whose rules are code, which gives no offsets.
    """

    def __init__(self, tokenizer: Any, side: str) -> None:
        check_offsets(tokenizer, side)
        rules = tokenizer.backend_tokenizer
        self._tokenizer, self._side = tokenizer, side
        self._rules = Tokenizer.from_str(rules.to_str())
        # it may take spaces out of the offsets of the tokens that hold them
        self._rules.post_processor = None
        self._rules.no_truncation()
        self._rules.no_padding()
        self._uncomparable = {*tokenizer.all_special_ids, tokenizer.unk_token_id}
        # marks of WordPiece and of older BPE, which are no characters of the text
        self._prefix, self._suffix = (
            getattr(self._rules.model, name, None) or ""
            for name in ("continuing_subword_prefix", "end_of_word_suffix")
        )
        self._pieces: dict[int, str] = {}

    def encode(self, texts: Sequence[str]) -> Iterator[Encoded | NotAligned]:
        """Ids and offsets of each text, or why its offsets cannot be used."""
        plain = self._tokenizer([*texts], add_special_tokens=False, verbose=False)["input_ids"]
        encoded = self._rules.encode_batch([*texts], add_special_tokens=False)
        for text, ids, each in zip(texts, plain, encoded, strict=True):
            offsets = np.array(each.offsets, dtype=np.int64).reshape(-1, 2)
            one = Encoded(np.array(each.ids, dtype=np.int64), offsets[:, 0], offsets[:, 1])
            if each.ids != list(ids):
                yield NotAligned(
                    f"the {self._side}'s tokenizer changes the text {text[:60]!r} by code before its rules "
                    "cut it, so the offsets of its tokens are of another text"
                )
            elif (wrong := self._wrong(text, one)) is not None:
                yield NotAligned(
                    f"the {self._side}'s tokenizer changes the length of the text {text[:60]!r} in a way "
                    f"that its offsets do not say: its tokens are not those characters from {wrong!r} on"
                )
            else:
                yield one

    def _wrong(self, text: str, encoded: Encoded) -> str | None:
        """The characters from which on most tokens are not those that their offsets say; None: they are.

        Compared without case, accents and what is not seen. Not compared are special and unknown tokens,
        and parts of a character.
        """
        length = len(text)
        if len(encoded) and not 0 <= encoded.start.min() <= encoded.stop.max() <= length:
            return text[:20]
        agree: list[bool] = []
        places: list[int] = []
        before = np.maximum.accumulate(np.append(0, encoded.stop))[:-1]
        whole = (before <= encoded.start) & (encoded.start < encoded.stop)
        whole &= encoded.stop <= np.append(encoded.start, length)[1:]
        columns = (values[whole].tolist() for values in (encoded.ids, encoded.start, encoded.stop))
        for id_, start, stop in zip(*columns, strict=True):
            if piece := self._piece(id_):
                part = _folded(text[start:stop])
                agree.append(piece == part or (bool(part) and (piece in part or part in piece)))
                places.append(start)
        if not agree:
            return None
        size = min(WINDOW, len(agree))
        right = np.convolve(agree, np.ones(size, dtype=np.int64), mode="valid")
        if (bad := 4 * right + 2 < 3 * size).any():  # of a few tokens one may be an exception
            first = int(bad.argmax())
            return text[places[first] :][:20]
        return None

    def _piece(self, id_: int) -> str:
        """What a token stands for, as it is compared; empty: it is not."""
        if id_ not in self._pieces:
            piece = "" if id_ in self._uncomparable else self._tokenizer.decode([id_])
            piece = piece.removeprefix(self._prefix).removesuffix(self._suffix)
            self._pieces[id_] = "" if "\ufffd" in piece else _folded(piece)
        return self._pieces[id_]


class TokenAligner:
    """Aligns documents between the tokens of two models.

    source  The source's tokenizer; of several source models, those that cut texts in their own ways.
    """

    def __init__(self, source: Any | Sequence[Any], target: Any) -> None:
        several = isinstance(source, Sequence)
        self._sources = (
            [OffsetTokenizer(each, f"source[{number}]") for number, each in enumerate(source)]
            if several
            else [OffsetTokenizer(source, "source")]
        )
        self._target = OffsetTokenizer(target, "target")

    def align(self, documents: Sequence[Document]) -> Iterator[AlignedText | NotAligned]:
        """Each document in the tokens of both models, or why it cannot be aligned."""
        read = [document.read_by("source") for document in documents]
        sources = zip(*(rules.encode(read) for rules in self._sources), strict=True)
        targets = self._target.encode([document.read_by("target") for document in documents])
        for document, text, each, target in zip(documents, read, sources, targets, strict=True):
            read_by = [one for one in each if isinstance(one, Encoded)]
            if len(read_by) < len(each) or isinstance(target, NotAligned):
                yield next(one for one in (*each, target) if isinstance(one, NotAligned))
                continue
            source = reduce(partial(side_by_side, length=len(text)), read_by)
            bounds = spans(source, target, document.shared_text)
            if len(bounds):
                yield AlignedText({"source": source.ids, "target": target.ids}, bounds)
            else:
                yield NotAligned(f"no token of the models ends together in {document.text[:60]!r}")


def side_by_side(one: Encoded, other: Encoded, length: int) -> Encoded:
    """A text of so many characters in the tokens of two models at once, step by step.

    A step is of the whole span that it lies in, so that tokens of other models part between spans alone.
    Without a span there is no step.
    """
    ours, theirs = (_boundaries(each, 0, length) for each in (one, other))
    i, j, low, high = _shared(ours, theirs)
    ends = ours.tokens[i], theirs.tokens[j]
    counts = [np.diff(each) for each in ends]
    steps = np.maximum(*counts)
    before = np.cumsum(steps) - steps
    columns = []
    for each, end, count in zip((one, other), ends, counts, strict=True):
        own = each.ids if each.ids.ndim == 2 else each.ids[:, None]
        ids = np.full((int(steps.sum()), own.shape[1]), STAYS, dtype=np.int64)
        tokens = np.arange(int(count.sum()))
        ids[tokens + np.repeat(before - end[:-1], count)] = own[tokens]
        columns.append(ids)
    # what no model reads lies between the spans, as it does between tokens
    return Encoded(np.concatenate(columns, axis=1), np.repeat(high[:-1], steps), np.repeat(low[1:], steps))


def spans(source: Encoded, target: Encoded, shared: Sequence[tuple[int, int, int]]) -> Ints:
    """The spans of a text, `[spans, 6]` with the columns `BOUNDS`, in order.

    shared  The runs of characters that both models read: where each begins in the source's text and in the
            target's, and its length.

    The spans of a run cover it, from its first boundary in both models to its last.
    """
    found = [_spans_of_run(source, target, *run) for run in shared]
    return np.concatenate([np.zeros((0, len(BOUNDS)), dtype=np.int64), *found])


def _spans_of_run(source: Encoded, target: Encoded, start: int, target_start: int, length: int) -> Ints:
    ours, theirs = _boundaries(source, start, length), _boundaries(target, target_start, length)
    i, j, low, high = _shared(ours, theirs)
    # what neither model reads goes to what is after it, or ends the text
    at = np.where(high == length, length, low) + start
    ends = np.stack([ours.tokens[i], theirs.tokens[j], at], axis=1)
    return np.stack([ends[:-1], ends[1:]], axis=2).reshape(-1, len(BOUNDS))


def _shared(ours: _Boundaries, theirs: _Boundaries) -> tuple[Ints, Ints, Ints, Ints]:
    """The boundaries that may lie before one character: their indices in both, and from where to where."""
    (low, high), (other_low, other_high) = (
        (each.low.tolist(), each.high.tolist()) for each in (ours, theirs)
    )
    both: list[tuple[int, int]] = []
    i = j = 0
    while i < len(low) and j < len(other_low):
        if high[i] < other_low[j]:
            i += 1
        elif other_high[j] < low[i]:
            j += 1
        else:
            both.append((i, j))
            i, j = i + 1, j + 1
    if len(both) > 1 and low[-1] <= other_high[-1] and other_low[-1] <= high[-1]:
        # with the last tokens of one model whose characters the other does not read
        both[-1] = (len(low) - 1, len(other_low) - 1)
    i_, j_ = np.array(both, dtype=np.int64).reshape(-1, 2).T
    return i_, j_, np.maximum(ours.low[i_], theirs.low[j_]), np.minimum(ours.high[i_], theirs.high[j_])


class _Boundaries(NamedTuple):
    """Where tokens part within a run of characters, `[n]` each: after so many `tokens`, before a character.

    That is one from `low` to `high`, counted from the run's beginning. These differ where characters belong
    to no token, as spaces with some vocabularies.
    """

    tokens: Ints
    low: Ints
    high: Ints


def _boundaries(encoded: Encoded, begin: int, length: int) -> _Boundaries:
    low = np.concatenate([[0], np.maximum.accumulate(encoded.stop)])
    high = np.concatenate([np.minimum.accumulate(encoded.start[::-1])[::-1], [begin + length]])
    high[-1] = max(high[-1], low[-1])
    # a token without characters belongs to the one before, and to the one after at the text's start
    last = np.append(low[1:] != low[:-1], True)
    if len(low) > 1 and low[1] == 0:
        last[np.flatnonzero(low == 0)[-1]] = False
        last[0] = True
    low, high = low - begin, high - begin
    valid = last & (low <= high) & (low <= length) & (high >= 0)
    return _Boundaries(valid.nonzero()[0], low.clip(0)[valid], high.clip(max=length)[valid])


@lru_cache(2**16)
def _folded(text: str) -> str:
    """A text without what tokenizers may change of it: case, accents, forms of letters, what is not seen."""
    if text.isascii():
        return "".join(text.lower().split())
    parts = normalize("NFKD", normalize("NFKD", text).casefold())
    return "".join(c for c in parts if category(c) not in _DROPPED and not c.isspace() and c != "\u2581")
