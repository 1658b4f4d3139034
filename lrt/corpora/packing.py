"""Documents packed into sequences of one length, without padding: concatenated and cut.

Documents are split before packing, so a sequence never holds documents of two splits. Their order is shuffled
here, on text, where it is cheap: recorded hidden states then lie on disk in nearly random order.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from lrt.corpora.documents import Document
from lrt.corpora.errors import CorpusEmpty, CorpusError, CorpusTooShort
from lrt.corpora.splits import SPLITS, Split, split_of
from lrt.corpora.words import is_blank
from lrt.errors import InvalidValue
from lrt.models.chat_template import ChatNotRendered
from lrt.models.prompts import render_chat
from lrt.models.special_tokens import leading_ids

log = logging.getLogger(__name__)
T = TypeVar("T")

_DOCUMENTS_PER_BATCH = 256
TEXT_MARK = "<|endoftext|>"  # what GPT-2's descendants saw between documents in training
FEW_DOCUMENTS = 30  # with fewer, a split may well get none


@dataclass(frozen=True)
class Sequences:
    """The packed sequences of one split, and where each token comes from."""

    tokens: npt.NDArray[np.int32]  # [sequences, context]
    documents: npt.NDArray[np.int64]  # [sequences, context], Document.id
    groups: npt.NDArray[np.int16]  # [sequences, context], index into PackedCorpus.groups

    def __len__(self) -> int:
        return int(self.tokens.shape[0])


@dataclass(frozen=True)
class PackedCorpus:
    """Packed sequences by split: 14 bytes of memory per token, whatever the models.

    groups  Names of the parts of the mixture.
    texts   `Document.id` and text of every document, some of whose tokens may have been cut off.
    """

    context: int  # tokens in a sequence
    groups: tuple[str, ...]
    splits: Mapping[Split, Sequences]
    documents_excluded: Mapping[str, int] = field(default_factory=dict)  # by reason
    texts: Iterable[tuple[int, str]] = ()

    @cached_property
    def digest(self) -> str:
        """sha256 over everything that recording reads."""
        running = hashlib.sha256(repr((self.context, self.groups)).encode())
        for split in SPLITS:
            sequences = self.splits[split]
            running.update(f"{split}:{len(sequences)}".encode())
            # little-endian, so that the digest is the same on every machine
            running.update(sequences.tokens.astype("<i4").tobytes())
            running.update(sequences.documents.astype("<i8").tobytes())
            running.update(sequences.groups.astype("<i2").tobytes())
        return running.hexdigest()

    def rows(self, split: Split) -> int:
        """Number of tokens in the split's sequences."""
        return len(self.splits[split]) * self.context

    def tokens_by_group(self, split: Split) -> dict[str, int]:
        """Number of the split's tokens by part of the mixture."""
        counts = np.bincount(self.splits[split].groups.ravel(), minlength=len(self.groups))
        return {name: int(count) for name, count in zip(self.groups, counts, strict=True)}


def begin_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids that mark the beginning of a document: what the tokenizer puts before every text.

    Where that is nothing, its BOS if it has one, else its EOS.

    Some instruct models open every chat turn with their BOS (SmolLM2), or have no BOS and close every turn
    with their EOS (Qwen2.5). There the mark is `<|endoftext|>`, if the vocabulary has it.

    Raises CorpusError for a tokenizer with neither BOS nor EOS.
    """
    if leading := leading_ids(tokenizer):
        return leading
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and not _opens_turns(tokenizer):
        return (int(bos),)
    for token_id in (tokenizer.get_vocab().get(TEXT_MARK), bos, eos):
        if token_id is not None:
            return (int(token_id),)
    raise CorpusError(
        "this tokenizer has neither a BOS nor an EOS token to separate documents in a packed sequence; "
        "use a tokenizer with one, or pass `begin` (the ids between documents) to lrt.corpora.pack"
    )


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids after every document: the EOS, or nothing if documents begin with it or it does not exist."""
    eos = tokenizer.eos_token_id
    return () if eos is None or begin_ids(tokenizer) == (eos,) else (int(eos),)


def _opens_turns(tokenizer: Any) -> bool:
    if not getattr(tokenizer, "chat_template", None):
        return False
    try:
        return render_chat(tokenizer, "a", "b").count(tokenizer.bos_token) > 1
    except ChatNotRendered:
        return False


def pack(
    documents: Iterable[Document],
    tokenizer: Any,
    context: int,
    tokens_wanted: Mapping[Split, int | None],
    *,
    begin: Sequence[int] | None = None,
    end: Sequence[int] = (),
    open_groups: Collection[str] = (),
    seed: int = 0,
) -> PackedCorpus:
    """Pack documents into sequences of `context` tokens until every split has the tokens it wants.

    Each document is written as `begin`, its own ids (without other special tokens), `end`. If the text, such
    as a rendered chat, already opens with `begin`, it is not repeated. A text that occurs twice is used once.
    No more of `documents` is read than is needed.

    Args:
        context: tokens in a sequence, at least 2 (position 0 is an attention sink and is excluded from fits).
        tokens_wanted: tokens by split, None for all there are; a split without an entry gets none. If the
            documents run out, the split stays smaller and a warning is logged.
        begin: ids before each document; None takes `begin_ids(tokenizer)`.
        open_groups: parts of the mixture whose documents get no `end`.
        seed: draws the partition and the order of documents.

    Raises:
        CorpusEmpty: no document was usable; names the reasons.
        CorpusTooShort: a split that wants tokens has fewer than one sequence.
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
    opening = begin_ids(tokenizer) if begin is None else tuple(begin)
    gathered = _gather(documents, tokenizer, limits, opening, tuple(end), open_groups, seed)
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
        split: _cut(split, gathered.pieces[split], usable, names, context, limits.get(split, 0), seed)
        for split in SPLITS
    }
    return PackedCorpus(context, names, splits, dict(gathered.excluded), gathered.texts)


@dataclass(frozen=True)
class _Piece:
    document: int
    group: str
    ids: npt.NDArray[np.int32]


@dataclass
class _Gathered:
    pieces: dict[Split, list[_Piece]]
    excluded: Counter[str]
    texts: list[tuple[int, str]]


def _gather(
    documents: Iterable[Document],
    tokenizer: Any,
    wanted: dict[Split, float],
    begin: tuple[int, ...],
    end: tuple[int, ...],
    open_groups: Collection[str],
    seed: int,
) -> _Gathered:
    pieces: dict[Split, list[_Piece]] = {split: [] for split in SPLITS}
    tokens = dict.fromkeys(SPLITS, 0)
    excluded: Counter[str] = Counter()
    seen: set[int] = set()
    documents_packed: list[tuple[int, str]] = []

    def lacking() -> set[Split]:
        return {split for split in SPLITS if tokens[split] < wanted.get(split, 0)}

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
        texts = [document.text for _, document in chosen]
        documents_packed.extend((document.id, document.text) for _, document in chosen)
        # verbose off: packing cuts anyway, so the warning about the model's longest text would mislead
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for (split, document), ids in zip(chosen, encoded, strict=True):
            opening = () if begin and tuple(ids[: len(begin)]) == begin else begin
            closing = () if document.source in open_groups else end
            piece = np.asarray((*opening, *ids, *closing), dtype=np.int32)
            pieces[split].append(_Piece(document.id, document.source, piece))
            tokens[split] += len(piece)
    for split in sorted(split for split in lacking() if wanted[split] < math.inf):
        log.warning(
            "corpus: split %s wants %d tokens, but its documents have only %d",
            split,
            wanted[split],
            tokens[split],
        )
    return _Gathered(pieces, excluded, documents_packed)


def _cut(
    split: Split,
    pieces: list[_Piece],
    usable: int,  # documents of all splits
    names: tuple[str, ...],
    context: int,
    wanted: float,
    seed: int,
) -> Sequences:
    available = sum(len(piece.ids) for piece in pieces)
    count = int(min(available, wanted)) // context
    if wanted > 0 and count == 0:
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
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pieces), generator=generator).tolist()
    shuffled = [pieces[i] for i in order]
    size = count * context
    if size == 0:
        empty = np.zeros((0, context))
        return Sequences(empty.astype(np.int32), empty.astype(np.int64), empty.astype(np.int16))
    lengths = [len(piece.ids) for piece in shuffled]
    index = {name: i for i, name in enumerate(names)}
    ids = np.concatenate([piece.ids for piece in shuffled])[:size]
    owners = np.repeat(np.array([p.document for p in shuffled], dtype=np.int64), lengths)[:size]
    groups = np.repeat(np.array([index[p.group] for p in shuffled], dtype=np.int16), lengths)[:size]
    shape = (count, context)
    return Sequences(ids.reshape(shape), owners.reshape(shape), groups.reshape(shape))


def _in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
