"""Documents into sequences of one length, without padding: concatenated and cut.

Splits are made before packing, so that a block never holds documents of two splits, and the order
of documents is shuffled here, on text, where it is cheap (rows of hidden states are then nearly
shuffled on disk).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from lrt.corpora.decontamination import Decontaminator
from lrt.corpora.documents import Document
from lrt.corpora.errors import CorpusEmpty, CorpusError, CorpusTooShort
from lrt.corpora.splits import SPLITS, Split, check_fractions, split_of
from lrt.models.prompts import ChatNotRendered, render_chat

log = logging.getLogger(__name__)
T = TypeVar("T")

_TOKENIZED_AT_ONCE = 256
TEXT_MARK = "<|endoftext|>"  # what GPT-2's descendants were trained to have between documents
FEW_DOCUMENTS = 30  # of fewer a split may well get none


@dataclass(frozen=True)
class Blocks:
    """The packed sequences of one split, and where each token came from."""

    tokens: npt.NDArray[np.int32]  # [blocks, context]
    documents: npt.NDArray[np.int64]  # [blocks, context], Document.id
    groups: npt.NDArray[np.int16]  # [blocks, context], index into PackedCorpus.groups

    def __len__(self) -> int:
        return int(self.tokens.shape[0])


@dataclass(frozen=True)
class PackedCorpus:
    """Token blocks by split. Twelve bytes and two of memory per token; nothing here grows with a
    model.
    """

    context: int
    groups: tuple[str, ...]
    splits: Mapping[Split, Blocks]
    documents_used: Mapping[Split, int] = field(default_factory=dict)
    documents_left_out: Mapping[str, int] = field(default_factory=dict)  # by reason

    @cached_property
    def digest(self) -> str:
        """sha256 over everything that recording reads: two corpora with one digest give the same
        rows.
        """
        running = hashlib.sha256(repr((self.context, self.groups)).encode())
        for split in SPLITS:
            blocks = self.splits[split]
            running.update(f"{split}:{len(blocks)}".encode())
            # little-endian whatever the machine, so that the digest travels
            running.update(blocks.tokens.astype("<i4").tobytes())
            running.update(blocks.documents.astype("<i8").tobytes())
            running.update(blocks.groups.astype("<i2").tobytes())
        return running.hexdigest()

    def rows(self, split: Split) -> int:
        """Tokens in the split's blocks."""
        return len(self.splits[split]) * self.context

    def tokens_by_group(self, split: Split) -> dict[str, int]:
        """How many of the split's tokens each part of the mixture gave."""
        counts = np.bincount(self.splits[split].groups.ravel(), minlength=len(self.groups))
        return {name: int(count) for name, count in zip(self.groups, counts, strict=True)}


def begin_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids every document begins with: the tokenizer's BOS, its EOS where it has no BOS.

    A BOS that opens every turn of a chat (SmolLM2's instruct models) is no mark of a document, and an EOS
    that closes turns (Qwen2.5's, which have no BOS) is none either: of these it is `<|endoftext|>`, where
    the vocabulary has it.

    Raises CorpusError for a tokenizer with neither.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and not _opens_turns(tokenizer):
        return (int(bos),)
    for token_id in (tokenizer.get_vocab().get(TEXT_MARK), bos, eos):
        if token_id is not None:
            return (int(token_id),)
    raise CorpusError(
        "this tokenizer has neither a BOS nor an EOS token, so documents cannot be told apart in "
        "a packed block; give `begin`, the ids that should stand between them, to lrt.corpora.pack"
    )


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids every document is closed with: the EOS, none where documents begin with it or there is none."""
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
    tokens_wanted: Mapping[Split, int],
    *,
    begin: Sequence[int] | None = None,
    end: Sequence[int] = (),
    open_groups: Collection[str] = (),
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    exclude: Decontaminator | None = None,
) -> PackedCorpus:
    """Packs documents into blocks of `context` tokens until every split has the tokens it wants.

    Each document is written as `begin`, its own ids (no other special tokens are added), `end`;
    `begin` is not written twice where the text, a rendered chat template for one, already opens
    with it. A text met twice is used once. No more of `documents` is read than is needed.

    Args:
        context: length of a block in tokens, at least 2 (position 0 is an attention sink and leaves
        the fit).
        tokens_wanted: tokens by split; a split that is not named gets none. Where the documents run
            out first, the split keeps what there is, and the log says so.
        begin: ids before each document; None takes `begin_ids(tokenizer)`.
        open_groups: parts of the mixture whose documents get no `end`.
        fractions: shares of documents in train, validation and test.
        seed: draws the partition and the order of documents.
        exclude: texts whose documents are left out.

    Raises:
        CorpusEmpty: no document was usable; says how many were left out, and why.
        CorpusTooShort: a split that wants tokens has fewer than one block.
        ValueError: impossible `context`, `fractions` or `tokens_wanted`.
    """
    if context < 2:
        raise ValueError(f"corpus.context is {context}; a sequence needs at least 2 tokens")
    check_fractions(fractions)
    for split, wanted in tokens_wanted.items():
        if split not in SPLITS or wanted < 0:
            raise ValueError(f"corpus.tokens.{split} is {wanted}; splits are {SPLITS}, counts >= 0")
        if 0 < wanted < context:
            raise CorpusTooShort(
                f"corpus.tokens.{split} is {wanted}, less than one sequence of "
                f"corpus.context={context} tokens; raise it or shorten the context"
            )
        if wanted > 0 and fractions[SPLITS.index(split)] == 0:
            raise ValueError(f"corpus.tokens.{split} is {wanted}, but `fractions` gives {split} no document")
    opening = begin_ids(tokenizer) if begin is None else tuple(begin)
    gathered = _gather(
        documents, tokenizer, dict(tokens_wanted), opening, tuple(end), open_groups, fractions, seed, exclude
    )
    left_out = gathered.left_out
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(left_out.items()))
    if not any(gathered.pieces.values()):
        raise CorpusEmpty(
            f"the corpus gave no usable document ({reasons or 'there was none at all'}); fix corpus.sources"
        )
    if reasons:
        log.info("corpus: documents left out: %s", reasons)
    usable = sum(map(len, gathered.pieces.values()))
    names = tuple(sorted({piece.group for pieces in gathered.pieces.values() for piece in pieces}))
    splits = {
        split: _cut(split, gathered.pieces[split], usable, names, context, tokens_wanted.get(split, 0), seed)
        for split in SPLITS
    }
    used = {split: len(gathered.pieces[split]) for split in SPLITS}
    return PackedCorpus(context, names, splits, used, dict(left_out))


@dataclass(frozen=True)
class _Piece:
    document: int
    group: str
    ids: npt.NDArray[np.int32]


@dataclass
class _Gathered:
    pieces: dict[Split, list[_Piece]]
    left_out: Counter[str]


def _gather(
    documents: Iterable[Document],
    tokenizer: Any,
    wanted: dict[Split, int],
    begin: tuple[int, ...],
    end: tuple[int, ...],
    open_groups: Collection[str],
    fractions: tuple[float, float, float],
    seed: int,
    exclude: Decontaminator | None,
) -> _Gathered:
    pieces: dict[Split, list[_Piece]] = {split: [] for split in SPLITS}
    tokens = dict.fromkeys(SPLITS, 0)
    left_out: Counter[str] = Counter()
    seen: set[int] = set()

    def lacking() -> set[Split]:
        return {split for split in SPLITS if tokens[split] < wanted.get(split, 0)}

    for batch in _in_batches(documents, _TOKENIZED_AT_ONCE):
        needed = lacking()
        if not needed:
            break
        chosen: list[tuple[Split, Document]] = []
        for document in batch:
            split = split_of(document.duplicate_group_id, fractions, seed)
            if document.left_out:
                left_out[document.left_out] += 1
            elif not document.text.strip():
                left_out["empty"] += 1
            elif document.id in seen:
                left_out["met before"] += 1
            elif split not in needed:
                continue
            elif exclude is not None and exclude.matches(document.text):
                left_out["excluded (prompts and evaluation items)"] += 1
            else:
                seen.add(document.id)
                chosen.append((split, document))
        if not chosen:
            continue
        texts = [document.text for _, document in chosen]
        # verbose off: packing cuts anyway, so the warning about a model's longest text would
        # mislead
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for (split, document), ids in zip(chosen, encoded, strict=True):
            opening = () if begin and tuple(ids[: len(begin)]) == begin else begin
            closing = () if document.source in open_groups else end
            piece = np.asarray((*opening, *ids, *closing), dtype=np.int32)
            pieces[split].append(_Piece(document.id, document.source, piece))
            tokens[split] += len(piece)
    for split in sorted(lacking()):
        log.warning(
            "corpus: %s wanted %d tokens and the documents gave %d",
            split,
            wanted[split],
            tokens[split],
        )
    return _Gathered(pieces, left_out)


def _cut(
    split: Split,
    pieces: list[_Piece],
    usable: int,  # documents of all splits
    names: tuple[str, ...],
    context: int,
    wanted: int,
    seed: int,
) -> Blocks:
    available = sum(len(piece.ids) for piece in pieces)
    blocks = min(available, wanted) // context
    if wanted > 0 and blocks == 0:
        fix_hint = "add text or shorten the context"
        if usable < FEW_DOCUMENTS:
            fix_hint = (
                "a document falls into one split whole: cut files without blank lines by lines "
                "(corpus.sources.NAME.unit=line), or add text"
            )
        raise CorpusTooShort(
            f"the corpus has {available} tokens in {len(pieces)} of its {usable} documents for {split}, "
            f"fewer than one sequence of corpus.context={context}; {fix_hint}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pieces), generator=generator).tolist()
    shuffled = [pieces[i] for i in order]
    size = blocks * context
    if size == 0:
        empty = np.zeros((0, context))
        return Blocks(empty.astype(np.int32), empty.astype(np.int64), empty.astype(np.int16))
    lengths = [len(piece.ids) for piece in shuffled]
    index = {name: i for i, name in enumerate(names)}
    ids = np.concatenate([piece.ids for piece in shuffled])[:size]
    owners = np.repeat(np.array([p.document for p in shuffled], dtype=np.int64), lengths)[:size]
    groups = np.repeat(np.array([index[p.group] for p in shuffled], dtype=np.int16), lengths)[:size]
    shape = (blocks, context)
    return Blocks(ids.reshape(shape), owners.reshape(shape), groups.reshape(shape))


def _in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
