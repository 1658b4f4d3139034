"""Packed sequences of token ids, and where each token comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lrt.corpora.aligned_packing import PADDING
from lrt.corpora.alignment import BOUNDS
from lrt.corpora.splits import SPLITS, Split
from lrt.models.sides import SIDES, Side


@dataclass(frozen=True)
class Alignment:
    """The target's tokens of sequences that the two models read in different tokens, and the spans of both.

    tokens  [sequences, context], of the target.
    bounds  [sequences, context, 6], `BOUNDS` of each span, tokens counted from the sequence's first.
    """

    tokens: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Sequences:
    """The packed sequences of one split, and where each token comes from.

    Models of different tokenizers have an `alignment`. Then `tokens` are the source's, documents and groups
    are those of the spans, and all are filled up with `PADDING` (groups with zeros).

    Several source models of unlike tokenizers read the text in steps: `tokens` then has the id that each
    model reads at a step, or `STAYS`.
    """

    tokens: npt.NDArray[np.int32]  # [sequences, context], or [sequences, context, models]
    documents: npt.NDArray[np.int64]  # [sequences, context], Document.id
    groups: npt.NDArray[np.int16]  # [sequences, context], index into PackedCorpus.groups
    alignment: Alignment | None = None

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def tokens_of(self, side: Side) -> npt.NDArray[np.int32]:
        """The tokens that a model reads, `[sequences, context]`, perhaps with padding; or several models'."""
        return self.tokens if side == "source" or self.alignment is None else self.alignment.tokens

    def padding_of(self, side: Side, first: int = 0, stop: int | None = None) -> npt.NDArray[np.bool_]:
        """Where a model reads nothing, `[sequences, context]`, in some of the sequences."""
        tokens = self.tokens_of(side)[first:stop]
        padding: npt.NDArray[np.bool_] = (tokens if tokens.ndim == 2 else tokens[..., 0]) == PADDING
        return padding

    def documents_in(self, groups: Collection[int] | None) -> npt.NDArray[np.int64]:
        """Ids of the documents of some groups (None: of all), each once and in order."""
        chosen = self.documents if groups is None else self.documents[np.isin(self.groups, list(groups))]
        ids = np.unique(chosen)
        return ids[ids != PADDING] if self.alignment is not None else ids

    def paired(self) -> dict[Side, tuple[int, int]]:
        """By side, the number of tokens, and of those at whose end the other model's tokens end too.

        Of several source models, steps count as tokens.
        """
        tokens = {side: int((~self.padding_of(side)).sum()) for side in SIDES}
        if self.alignment is None:
            return {side: (count, count) for side, count in tokens.items()}
        start, stop = (self.alignment.bounds[..., BOUNDS.index(f"{end}.text")] for end in ("start", "stop"))
        return {side: (count, int((start < stop).sum())) for side, count in tokens.items()}


@dataclass(frozen=True)
class PackedCorpus:
    """Packed sequences by split: 14 bytes of memory per token, 42 where the two models' tokens differ.

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
            if sequences.alignment is not None:
                running.update(sequences.alignment.tokens.astype("<i4").tobytes())
                running.update(sequences.alignment.bounds.astype("<i4").tobytes())
        return running.hexdigest()

    @property
    def aligned(self) -> bool:
        """Whether the two models read the text in different tokens."""
        return self.splits["train"].alignment is not None

    @property
    def readers(self) -> int:
        """Source models that read the text in steps, each in its own tokens; 0 where there are no steps."""
        return sum(self.splits["train"].tokens.shape[2:])

    def rows(self, split: Split) -> int:
        """Number of tokens in the split's sequences, padding included."""
        return len(self.splits[split]) * self.context

    def pairs(self, split: Split) -> int:
        """Number of single-token rows that the split has at most: of tokens that end in both models."""
        return min(count for _, count in self.splits[split].paired().values())

    def paired(self) -> dict[str, dict[Side, dict[str, int]]]:
        """By split and side, the number of `tokens`, and of those that end where the other's do."""
        return {
            split: {
                side: {"tokens": tokens, "paired": paired}
                for side, (tokens, paired) in self.splits[split].paired().items()
            }
            for split in SPLITS
        }

    def tokens_by_group(self, split: Split, side: Side = "source") -> dict[str, int]:
        """Number of a side's tokens by part of the mixture, padding not counted.

        Where the two models' tokens differ, a token outside spans (of a chat's template, say) counts for the
        part of the next span in its sequence, or of the last.
        """
        sequences, weights = self.splits[split], None
        if sequences.alignment is not None:
            stops = sequences.alignment.bounds[..., BOUNDS.index(f"stop.{side}")].copy()
            spans = sequences.documents != PADDING
            read = (~sequences.padding_of(side)).sum(axis=1)
            stops[np.arange(len(stops)), spans.sum(axis=1) - 1] = read
            weights = (np.diff(stops, axis=1, prepend=0) * spans).ravel()
        counts = np.bincount(sequences.groups.ravel(), weights, minlength=len(self.groups))
        return {name: int(count) for name, count in zip(self.groups, counts, strict=True)}
