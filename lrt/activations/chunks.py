"""A split's rows as chunks: short runs that are read together and shuffled as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrt.activations.errors import StoreForeign
from lrt.activations.filter import RowFilter
from lrt.activations.manifest import SIDES, Side
from lrt.activations.store import ActivationStore, ShardReader
from lrt.corpora.splits import Split

# Columns that say of a token what it is; they decide which row it is in.
FACTS = ("position", "token", "document", "group")


@dataclass(frozen=True)
class Selection:
    """Which layers of a store a fit sees, which of its tokens, and what one row of it is.

    source_layers, target_layers  Recorded blocks; several are laid side by side (paper appendix A).
    filter  The tokens that leave.
    span    Neighbouring tokens of one document that make one row, their mean; 1 is the token itself.
            An affine map carries means to means, so the same map is sought. But what sets a whole
            document apart, which is what a difference of means is made of, is a small part of any
            single token's variance and a large one of a mean's.
    """

    source_layers: tuple[int, ...]
    target_layers: tuple[int, ...]
    filter: RowFilter
    span: int = 1
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("source_layers", "target_layers", "parts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for side, layers in (("source", self.source_layers), ("target", self.target_layers)):
            if not layers or len(set(layers)) < len(layers):
                raise ValueError(f"layers.{side}={list(layers)}; name at least one block, each once")
        if self.span < 1:
            raise ValueError(f"span={self.span}; it is the number of tokens in a row, at least 1")

    def to_data(self) -> dict[str, Any]:
        """Plain containers: a checkpoint must load with weights_only=True."""
        return {
            "source_layers": list(self.source_layers),
            "target_layers": list(self.target_layers),
            "filter": {**asdict(self.filter), "token_ids": list(self.filter.token_ids)},
            "span": self.span,
            "parts": list(self.parts),
        }

    def columns(self, store: ActivationStore, side: Side) -> list[str]:
        """Names of the store's columns that make up a row of a side, in their order."""
        layers = self.source_layers if side == "source" else self.target_layers
        return [store.column(side, layer) for layer in layers]

    def rows(
        self,
        store: ActivationStore,
        reader: ShardReader,
        start: int,
        stop: int,
        chunk_tokens: int | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[stop - start] int64, the row that each token is in or -1, counted from 0 in the store's
        order; and [stop - start] bool by reason, which tokens leave. No row lies in two chunks."""
        norms = norm_columns(store, self)
        return rows_of(
            self,
            {column: reader.rows(column, start, stop) for column in norms},
            {column: store.manifest.median_norms[column.removeprefix("norm.")] for column in norms},
            {name: reader.rows(name, start, stop) for name in FACTS},
            chunk_tokens,
            seen_groups(store, self),
        )


def seen_groups(store: ActivationStore, selection: Selection) -> Tensor | None:
    """The numbers `[k]` of the parts a selection sees, or None for all of them.

    Raises StoreForeign for a part that the store does not hold.
    """
    if not selection.parts:
        return None
    held = store.plan.groups
    for part in selection.parts:
        if part not in held:
            raise StoreForeign(f"{store.folder} holds the parts {list(held)}, not {part!r}; {store.mend}")
    return torch.tensor([held.index(part) for part in selection.parts])


def norm_columns(store: ActivationStore, selection: Selection) -> list[str]:
    """Names of the norm columns of a selection's layers; StoreForeign where a layer is not there."""
    return [f"norm.{column}" for side in SIDES for column in selection.columns(store, side)]


def rows_of(
    selection: Selection,
    norms: Mapping[str, Tensor],  # [n] by column
    medians: Mapping[str, float],  # by the same columns
    facts: Mapping[str, Tensor],  # FACTS: [n]
    chunk_tokens: int | None = None,
    groups: Tensor | None = None,  # [k] those that are seen; None: all
) -> tuple[Tensor, dict[str, Tensor]]:
    """What `Selection.rows` gives, of `n` tokens in the store's order.

    Spans lie on a grid of the block's positions and end where a document or a chunk ends. One that
    holds less than half of its tokens leaves: it is noisier than the others, and a fit weighs all alike.
    Tokens of parts that are not seen are in no row, and are not among those that leave.
    """
    leaves = selection.filter.left_out(dict(norms), dict(medians), facts["position"], facts["token"])
    keep = torch.ones(len(facts["position"]), dtype=torch.bool)
    if groups is not None:
        keep = torch.isin(facts["group"], groups)
        leaves = {reason: mask & keep for reason, mask in leaves.items()}
    for mask in leaves.values():
        keep = keep & ~mask
    span = torch.arange(len(keep))
    if selection.span > 1:
        position, document = facts["position"].long(), facts["document"].long()
        chunk = span // (chunk_tokens or max(1, len(keep)))
        marks = torch.stack([position // selection.span, document, chunk])
        new = torch.ones_like(keep)
        # where positions fall, another block begins
        new[1:] = (marks[:, 1:] != marks[:, :-1]).any(dim=0) | (position[1:] < position[:-1])
        span = new.long().cumsum(0) - 1
        held = torch.zeros(int(new.sum()), dtype=torch.int64).index_add_(0, span, keep.long())
        leaves["short span"] = keep & (2 * held < selection.span)[span]
        keep &= ~leaves["short span"]
    row = torch.full_like(span, -1)
    row[keep] = torch.unique_consecutive(span[keep], return_inverse=True)[1]
    return row, leaves


@dataclass(frozen=True)
class Chunks:
    """The chunks of a split: where each lies and how many rows it gives.

    Memory is four integers a chunk. Which tokens make which row is found again when a chunk is read.
    """

    shard: npt.NDArray[np.int64]  # [chunks], index into store.shards(split)
    start: npt.NDArray[np.int64]  # [chunks], first row within the shard
    stop: npt.NDArray[np.int64]  # [chunks]
    kept: npt.NDArray[np.int64]  # [chunks]
    left_out: dict[str, int] = field(default_factory=dict)  # tokens by reason

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def rows(self) -> int:
        """Rows to fit on."""
        return int(self.kept.sum())


def chunks_of(store: ActivationStore, split: Split, selection: Selection, chunk_tokens: int) -> Chunks:
    """Cuts a split into chunks of at most `chunk_tokens` tokens and counts the rows that they give.

    Reads norms, positions, tokens and documents once, and no hidden state.
    """
    bounds: list[tuple[int, int, int, int]] = []
    left_out: Counter[str] = Counter()
    for number, shard in enumerate(store.shards(split)):
        row, leaves = selection.rows(store, store.reader(shard), 0, shard.rows, chunk_tokens)
        left_out.update({reason: int(mask.sum()) for reason, mask in leaves.items()})
        before = torch.cat([torch.tensor([-1]), row.cummax(dim=0).values[:-1]])
        chunk = torch.arange(shard.rows) // chunk_tokens
        kept = chunk[row > before].bincount(minlength=-(-shard.rows // chunk_tokens))
        for (start, stop), count in zip(_runs(shard.rows, chunk_tokens), kept.tolist(), strict=True):
            bounds.append((number, start, stop, count))
    table = np.array(bounds, dtype=np.int64).reshape(-1, 4)
    return Chunks(table[:, 0], table[:, 1], table[:, 2], table[:, 3], dict(left_out))


def _runs(rows: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, length):
        yield start, min(start + length, rows)
