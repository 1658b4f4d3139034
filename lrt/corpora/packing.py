"""Documents packed into sequences of one length, without padding: concatenated and cut.

Documents are split before packing, so a sequence never holds documents of two splits. Their order is shuffled
here, on text, where it is cheap: recorded hidden states then lie on disk in nearly random order.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from lrt.corpora.aligned_packing import AlignedPiece, Ints, cut_aligned, steps_of
from lrt.corpora.alignment import TokenAligner
from lrt.corpora.document_ends import begin_ids, end_ids
from lrt.corpora.documents import Document
from lrt.corpora.errors import CorpusEmpty, CorpusTooShort, NotAligned
from lrt.corpora.sequences import Alignment, PackedCorpus, Sequences
from lrt.corpora.splits import SPLITS, Split, split_of
from lrt.corpora.words import is_blank
from lrt.errors import InvalidValue
from lrt.models.sides import Side

log = logging.getLogger(__name__)
T = TypeVar("T")

_DOCUMENTS_PER_BATCH = 256
FEW_DOCUMENTS = 30  # with fewer, a split may well get none
FIRST = 16  # if none of so many documents can be aligned, no later one will be
UNALIGNED = "not aligned between the two tokenizers"


def pack(
    documents: Iterable[Document],
    tokenizer: Any | Sequence[Any],
    context: int,
    tokens_wanted: Mapping[Split, int | None],
    *,
    target: Any = None,
    begin: Sequence[int] | None = None,
    end: Sequence[int] = (),
    open_groups: Collection[str] = (),
    seed: int = 0,
) -> PackedCorpus:
    """Pack documents into sequences of `context` tokens until every split has the tokens it wants.

    Each document is written as `begin`, its own ids (without other special tokens), `end`. If the text, such
    as a rendered chat, already opens with `begin`, it is not repeated. A text that occurs twice is used once.
    No more of `documents` is read than is needed.

    With a `target`, whose tokens are others, both models read the same text, each in its own tokens and
    between its own `begin_ids` and `end_ids`. Sequences are cut between spans (`lrt.corpora.alignment`), and
    have at most `context` tokens of each model. Documents that cannot be aligned are excluded and counted.

    A list of tokenizers is of several source models, which read the text in steps between their own
    `begin_ids` and `end_ids`.

    Args:
        tokenizer: the models', or the source's; a list of at least two that cut texts in their own ways needs
            a `target`, and neither `begin` nor `end`.
        target: the target's tokenizer, if the two models have different tokens; `tokenizer` is the source's.
        context: tokens in a sequence, at least 2 (position 0 is an attention sink and is excluded from fits).
        tokens_wanted: tokens by split, None for all there are; a split without an entry gets none. If the
            documents run out, the split stays smaller and a warning is logged.
        begin: ids before each document; None takes `begin_ids(tokenizer)`.
        end: ids after each document. With a `target`, `begin` and `end` are of the source.
        open_groups: parts of the mixture whose documents get no `end`.
        seed: draws the partition and the order of documents.

    Raises:
        CorpusEmpty: no document was usable; names the reasons.
        CorpusTooShort: a split that wants tokens has fewer than one sequence.
        NotAligned: with a `target`, none of the first documents could be aligned.
        InvalidValue: `context` or `tokens_wanted` is out of range.
    """
    if context < 2:
        raise InvalidValue(f"corpus.context={context}; a sequence needs at least 2 tokens")
    limits = {split: math.inf if most is None else most for split, most in tokens_wanted.items()}
    for split, wanted in limits.items():
        if split not in SPLITS or wanted < 0:
            raise InvalidValue(
                f"corpus.tokens.{split}={wanted}; splits are {', '.join(SPLITS)}, and counts are at least 0"
            )
        if 0 < wanted < context:
            raise CorpusTooShort(
                f"corpus.tokens.{split}={wanted} is less than one sequence of corpus.context={context} "
                "tokens; raise it or shorten the context",
                split,
                int(wanted),
            )
    encoder: _Encoder
    if isinstance(tokenizer, Sequence):
        if len(tokenizer) < 2 or target is None or begin is not None or end:
            raise ValueError(
                "several source tokenizers need a target, and have ids of their own around texts"
            )
        opening, closing = (steps_of([ids(each) for each in tokenizer]) for ids in (begin_ids, end_ids))
        encoder = _BothTokens.of(tokenizer, target, opening, closing, open_groups)
    else:
        before = begin_ids(tokenizer) if begin is None else tuple(begin)
        if target is None:
            encoder = _OwnTokens(tokenizer, before, tuple(end), open_groups)
        else:
            encoder = _BothTokens.of(tokenizer, target, before, tuple(end), open_groups)
    gathered = _gather(documents, encoder, limits, seed)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(gathered.excluded.items()))
    if not any(gathered.pieces.values()):
        raise CorpusEmpty(
            f"the corpus has no usable document ({reasons or 'it has no document at all'}); add text"
        )
    if reasons:
        log.info("corpus: excluded documents: %s", reasons)
    usable = sum(map(len, gathered.pieces.values()))
    names = tuple(sorted({piece.group for pieces in gathered.pieces.values() for piece in pieces}))
    splits = {
        split: _cut(
            split,
            gathered.pieces[split],
            target is not None,
            usable,
            names,
            context,
            limits.get(split, 0),
            seed,
        )
        for split in SPLITS
    }
    return PackedCorpus(context, names, splits, dict(gathered.excluded), gathered.texts)


@dataclass(frozen=True)
class _Piece:
    document: int
    group: str
    ids: npt.NDArray[np.int32]

    @property
    def sizes(self) -> tuple[int, ...]:
        return (len(self.ids),)


class _Encoder(ABC):
    """Documents to pieces, or why they cannot be one."""

    @abstractmethod
    def encode(self, documents: Sequence[Document]) -> Iterator[_Piece | AlignedPiece | NotAligned]: ...


@dataclass(frozen=True)
class _OwnTokens(_Encoder):
    tokenizer: Any
    begin: tuple[int, ...]
    end: tuple[int, ...]
    open_groups: Collection[str]

    def encode(self, documents: Sequence[Document]) -> Iterator[_Piece]:
        begin = self.begin
        # verbose off: packing cuts anyway, so the warning about the model's longest text would mislead
        texts = [document.text for document in documents]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for document, ids in zip(documents, encoded, strict=True):
            opening = () if begin and tuple(ids[: len(begin)]) == begin else begin
            closing = () if document.source in self.open_groups else self.end
            piece = np.asarray((*opening, *ids, *closing), dtype=np.int32)
            yield _Piece(document.id, document.source, piece)


@dataclass(frozen=True)
class _BothTokens(_Encoder):
    aligner: TokenAligner
    begin: dict[Side, tuple[int, ...] | Ints]
    end: dict[Side, tuple[int, ...] | Ints]
    open_groups: Collection[str]

    @classmethod
    def of(
        cls,
        source: Any,
        target: Any,
        begin: tuple[int, ...] | Ints,  # of the source
        end: tuple[int, ...] | Ints,
        open_groups: Collection[str],
    ) -> _BothTokens:
        return cls(
            TokenAligner(source, target),
            {"source": begin, "target": begin_ids(target)},
            {"source": end, "target": end_ids(target)},
            open_groups,
        )

    def encode(self, documents: Sequence[Document]) -> Iterator[AlignedPiece | NotAligned]:
        nothing: dict[Side, tuple[int, ...] | Ints] = {"source": (), "target": ()}
        for document, text in zip(documents, self.aligner.align(documents), strict=True):
            if isinstance(text, NotAligned):
                yield text
                continue
            end = nothing if document.source in self.open_groups else self.end
            yield AlignedPiece.of(document.id, document.source, text, self.begin, end)


@dataclass
class _Gathered:
    pieces: dict[Split, list[Any]]
    excluded: Counter[str]
    texts: list[tuple[int, str]]


def _gather(
    documents: Iterable[Document], encoder: _Encoder, wanted: dict[Split, float], seed: int
) -> _Gathered:
    pieces: dict[Split, list[Any]] = {split: [] for split in SPLITS}
    tokens = {split: np.zeros(1, dtype=np.int64) for split in SPLITS}  # by model, if they differ
    excluded: Counter[str] = Counter()
    seen: set[int] = set()
    documents_packed: list[tuple[int, str]] = []

    def lacking() -> set[Split]:
        # a sequence takes at most `context` tokens of either model, so the longer one fills enough of them
        return {split for split in SPLITS if tokens[split].max() < wanted.get(split, 0)}

    for batch in _in_batches(documents, _DOCUMENTS_PER_BATCH):
        needed = lacking()
        if not needed:
            break
        chosen: list[tuple[Split, Document]] = []
        for document in batch:
            split = split_of(document.duplicate_group_id, seed)
            if document.excluded:
                excluded[document.excluded] += 1
            elif is_blank(document.text):
                excluded["empty"] += 1
            elif document.id in seen:
                excluded["duplicates"] += 1
            elif split not in needed:
                continue
            else:
                seen.add(document.id)
                chosen.append((split, document))
        if not chosen:
            continue
        encoded = encoder.encode([document for _, document in chosen])
        for (split, document), piece in zip(chosen, encoded, strict=True):
            if isinstance(piece, NotAligned):
                excluded[UNALIGNED] += 1
                if excluded[UNALIGNED] == 1:
                    log.warning("%s. Such documents are excluded and counted", piece)
                if excluded[UNALIGNED] == FIRST and not documents_packed:
                    raise piece
                continue
            documents_packed.append((document.id, document.text))
            pieces[split].append(piece)
            tokens[split] = tokens[split] + np.array(piece.sizes)
    for split in sorted(split for split in lacking() if wanted[split] < math.inf):
        log.warning(
            "corpus: split %s wants %d tokens, but its documents have only %d",
            split,
            wanted[split],
            tokens[split].max(),
        )
    return _Gathered(pieces, excluded, documents_packed)


def _cut(
    split: Split,
    pieces: list[Any],
    aligned: bool,
    usable: int,  # documents of all splits
    names: tuple[str, ...],
    context: int,
    wanted: float,
    seed: int,
) -> Sequences:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pieces), generator=generator).tolist()
    shuffled = [pieces[i] for i in order]
    available = max(map(sum, zip(*(piece.sizes for piece in pieces), strict=True)), default=0)
    count = int(min(available, wanted)) // context
    sequences = (
        _cut_aligned(shuffled, names, context, count)
        if aligned
        else _cut_plain(shuffled, names, context, count)
    )
    if wanted > 0 and len(sequences) == 0:
        fix_hint = "add text or shorten the context"
        if usable < FEW_DOCUMENTS:
            fix_hint = (
                "all of a document goes to one split: cut files without blank lines by lines "
                "(corpus.sources.NAME.unit=line), or add text"
            )
        raise CorpusTooShort(
            f"the corpus has {available} tokens in {len(pieces)} of its {usable} documents for {split}, "
            f"fewer than one sequence of corpus.context={context}; {fix_hint}",
            split,
            available,
        )
    return sequences


def _cut_plain(pieces: list[_Piece], names: tuple[str, ...], context: int, count: int) -> Sequences:
    size, shape = count * context, (count, context)
    if size == 0:
        empty = np.zeros((0, context))
        return Sequences(empty.astype(np.int32), empty.astype(np.int64), empty.astype(np.int16))
    lengths = [len(piece.ids) for piece in pieces]
    index = {name: i for i, name in enumerate(names)}
    ids = np.concatenate([piece.ids for piece in pieces])[:size]
    owners = np.repeat(np.array([p.document for p in pieces], dtype=np.int64), lengths)[:size]
    groups = np.repeat(np.array([index[p.group] for p in pieces], dtype=np.int16), lengths)[:size]
    return Sequences(ids.reshape(shape), owners.reshape(shape), groups.reshape(shape))


def _cut_aligned(pieces: list[AlignedPiece], names: tuple[str, ...], context: int, count: int) -> Sequences:
    cut = cut_aligned(pieces, names, context, count)
    alignment = Alignment(cut.tokens["target"], cut.bounds)
    return Sequences(cut.tokens["source"], cut.documents, cut.groups, alignment)


def _in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
