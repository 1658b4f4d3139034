"""A split's rows as chunks: short runs that are read together and shuffled as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

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
class TokenRows:
    """The rows that `n` tokens make.

    row    [n] int64, the row each token is in, counted from 0 in the store's order, or -1.
    times  [rows] int64, how often each is given; None: once.
    leaves Which tokens leave, [n] bool by reason.
    """

    row: Tensor
    times: Tensor | None
    leaves: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        """Rows that are given."""
        distinct = int(self.row.max()) + 1 if len(self.row) else 0
        return distinct if self.times is None else int(self.times.sum())

    def by_chunk(self, chunk_tokens: int) -> Tensor:
        """[chunks] rows that are given by the tokens of each chunk."""
        first = torch.cat([torch.tensor([-1]), self.row.cummax(dim=0).values[:-1]]) < self.row
        chunk = torch.arange(len(self.row))[first] // chunk_tokens
        counts = torch.zeros(-(-len(self.row) // chunk_tokens), dtype=torch.int64)
        return counts.index_add_(0, chunk, torch.ones_like(chunk) if self.times is None else self.times)

    def gathered(self, values: Tensor) -> Tensor:
        """`[n, ...]` of one column, by token, as `[count, ...]`: means of states, and of a whole-numbered
        column the first token's value."""
        taken = self.row >= 0
        values, row = values[taken], self.row[taken]
        distinct = int(row.max()) + 1 if len(row) else 0
        if len(row) == distinct:  # a token a row
            made = values
        elif not values.is_floating_point():
            first = torch.ones_like(row, dtype=torch.bool)
            first[1:] = row[1:] != row[:-1]
            made = values[first]
        else:
            sums = torch.zeros(distinct, *values.shape[1:]).index_add_(0, row, values.float())
            counts = row.bincount(minlength=distinct)
            made = sums / counts.view(-1, *[1] * (sums.ndim - 1))
        return made if self.times is None else made.repeat_interleave(self.times, dim=0)


RowKind = Literal["pooled", "tokens", "last_tokens"]


@dataclass(frozen=True)
class PartRule:
    """What a row is of one part of the corpus.

    rows    `pooled`, as of every part; `tokens`, each token by itself; `last_tokens`, the last token of each
            document alone: where a steering vector is read of texts like those.
    repeat  How often its rows are given.
    """

    part: str
    rows: RowKind = "pooled"
    repeat: int = 1

    def __post_init__(self) -> None:
        if self.rows not in get_args(RowKind):
            raise ValueError(f"rows={self.rows} of {self.part}; it is one of {', '.join(get_args(RowKind))}")
        if self.repeat < 1:
            raise ValueError(f"rows of {self.part} are repeated {self.repeat} times; it is at least 1")


@dataclass(frozen=True)
class Selection:
    """Which layers of a store a fit sees, which of its tokens, and what one row of it is.

    source_layers, target_layers  Recorded blocks; several are laid side by side (paper appendix A).
    filter  The tokens that leave.
    pool    Neighbouring tokens of one document that make one row, their mean; 1 is the token itself.
            An affine map carries means to means, so the same map is sought. But what sets a whole
            document apart, which is what a difference of means is made of, is a small part of any
            single token's variance and a large one of a mean's.
    parts   Parts of the corpus that are seen; none: all.
    rules   What the rows of some parts are instead.
    """

    source_layers: tuple[int, ...]
    target_layers: tuple[int, ...]
    filter: RowFilter
    pool: int = 1
    parts: tuple[str, ...] = ()
    rules: tuple[PartRule, ...] = ()

    def __post_init__(self) -> None:
        for name in ("source_layers", "target_layers", "parts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        rules = (rule if isinstance(rule, PartRule) else PartRule(*rule) for rule in self.rules)
        object.__setattr__(self, "rules", tuple(rules))
        for side, layers in (("source", self.source_layers), ("target", self.target_layers)):
            if not layers or len(set(layers)) < len(layers):
                raise ValueError(f"layers.{side}={list(layers)}; name at least one block, each once")
        if self.pool < 1:
            raise ValueError(f"pool={self.pool}; it is the number of tokens in a row, at least 1")

    def to_data(self) -> dict[str, Any]:
        """Plain containers: a checkpoint must load with weights_only=True."""
        return {
            "source_layers": list(self.source_layers),
            "target_layers": list(self.target_layers),
            "filter": {**asdict(self.filter), "token_ids": list(self.filter.token_ids)},
            "span": self.pool,
            "parts": list(self.parts),
            "rules": [[rule.part, rule.rows, rule.repeat] for rule in self.rules],
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
    ) -> TokenRows:
        """The rows of some tokens of a shard. No row lies in two chunks."""
        norms = norm_columns(store, self)
        return rows_of(
            self,
            {column: reader.rows(column, start, stop) for column in norms},
            {column: store.manifest.median_norms[column.removeprefix("norm.")] for column in norms},
            {name: reader.rows(name, start, stop) for name in FACTS},
            chunk_tokens,
            rules_of(store, self),
        )


@dataclass(frozen=True)
class PartRules:
    """What a selection asks of the parts of a corpus, by their numbers.

    seen   [k] parts that are seen; None: all.
    ends   [k] parts whose documents give their last token alone.
    tokens [k] parts whose every token is a row.
    times  [parts] how often rows are given; None: once.
    """

    seen: Tensor | None = None
    ends: Tensor | None = None
    tokens: Tensor | None = None
    times: Tensor | None = None

    @classmethod
    def of(cls, selection: Selection, groups: Sequence[str]) -> PartRules:
        """Of a corpus with these parts. Raises ValueError for a part that is not among them."""
        numbers = {name: number for number, name in enumerate(groups)}
        for part in (*selection.parts, *(rule.part for rule in selection.rules)):
            if part not in numbers:
                raise ValueError(
                    f"the corpus holds the parts {list(groups)}, not {part!r}, which gave no document that "
                    f"was used: fix corpus.sources.{part}, or give it more weight"
                )
        times = torch.ones(len(groups), dtype=torch.int64)
        for rule in selection.rules:
            times[numbers[rule.part]] = rule.repeat
        ends, tokens = (
            [numbers[rule.part] for rule in selection.rules if rule.rows == kind]
            for kind in ("last_tokens", "tokens")
        )
        return cls(
            torch.tensor([numbers[part] for part in selection.parts]) if selection.parts else None,
            torch.tensor(ends) if ends else None,
            torch.tensor(tokens) if tokens else None,
            times if (times > 1).any() else None,
        )


def rules_of(store: ActivationStore, selection: Selection) -> PartRules:
    """What a selection asks of a store's parts. Raises StoreForeign for one that the store does not hold."""
    try:
        return PartRules.of(selection, store.plan.groups)
    except ValueError as error:
        raise StoreForeign(f"{store.folder}: {error}") from error


def norm_columns(store: ActivationStore, selection: Selection) -> list[str]:
    """Names of the norm columns of a selection's layers; StoreForeign where a layer is not there."""
    return [f"norm.{column}" for side in SIDES for column in selection.columns(store, side)]


def rows_of(
    selection: Selection,
    norms: Mapping[str, Tensor],  # [n] by column
    medians: Mapping[str, float],  # by the same columns
    facts: Mapping[str, Tensor],  # FACTS: [n]
    chunk_tokens: int | None = None,
    rules: PartRules | None = None,
) -> TokenRows:
    """What `Selection.rows` gives, of `n` tokens in the store's order.

    Spans lie on a grid of the block's positions and end where a document or a chunk ends. One that
    holds less than half of its tokens leaves: it is noisier than the others, and a fit weighs all alike.
    Tokens of parts that are not seen are in no row, and are not among those that leave; nor are those
    before the last of a part that gives its documents' ends. A document whose last token is a chunk's has
    no end there: what follows it is not known. Nor has one that begins where a block or a chunk does: it may
    have begun before, and an end is of a text as it is read whole. (In a block that begins with the last few
    tokens of a request, its end had six times the norm of others.)
    """
    rules = rules or PartRules()
    position, document = facts["position"].long(), facts["document"].long()
    leaves = selection.filter.left_out(dict(norms), dict(medians), facts["position"], facts["token"])
    keep = torch.ones(len(position), dtype=torch.bool)
    if rules.seen is not None:
        keep = torch.isin(facts["group"], rules.seen)
    chunk = torch.arange(len(keep)) // (chunk_tokens or max(1, len(keep)))
    alone = torch.zeros_like(keep)  # rows of one token, whatever the span
    if rules.ends is not None:
        last = torch.zeros_like(keep)
        last[:-1] = (document[1:] != document[:-1]) & (chunk[1:] == chunk[:-1])
        new = _new(torch.stack([document, chunk]), position)
        begun = new & (position > 0)  # in this block, so that its end is read with all of it before
        begun[:1] = False
        begun[1:] &= chunk[1:] == chunk[:-1]
        last &= begun[new.nonzero()[:, 0]][new.long().cumsum(0) - 1]
        alone = torch.isin(facts["group"], rules.ends)
        keep &= ~alone | last
    if rules.tokens is not None:
        alone |= torch.isin(facts["group"], rules.tokens)
    leaves = {reason: mask & keep for reason, mask in leaves.items()}
    for mask in leaves.values():
        keep = keep & ~mask
    span = torch.arange(len(keep))
    if selection.pool > 1:
        new = _new(torch.stack([position // selection.pool, document, chunk]), position) | alone
        span = new.long().cumsum(0) - 1
        held = torch.zeros(int(new.sum()), dtype=torch.int64).index_add_(0, span, keep.long())
        # a document's end is kept though it is the only one of its span
        leaves["short pool"] = keep & ~alone & (2 * held < selection.pool)[span]
        keep &= ~leaves["short pool"]
    row = torch.full_like(span, -1)
    row[keep] = torch.unique_consecutive(span[keep], return_inverse=True)[1]
    times = None
    if rules.times is not None:
        first = torch.ones(int(keep.sum()), dtype=torch.bool)
        first[1:] = row[keep][1:] != row[keep][:-1]
        times = rules.times[facts["group"][keep][first].long()]
    return TokenRows(row, times, leaves)


def _new(
    marks: Tensor,  # [k, n]
    position: Tensor,  # [n]
) -> Tensor:
    """[n] tokens of which some mark is not that of the token before; the first is new. Where positions fall,
    another block begins."""
    new = torch.ones(len(position), dtype=torch.bool)
    new[1:] = (marks[:, 1:] != marks[:, :-1]).any(dim=0) | (position[1:] < position[:-1])
    return new


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
        made = selection.rows(store, store.reader(shard), 0, shard.rows, chunk_tokens)
        left_out.update({reason: int(mask.sum()) for reason, mask in made.leaves.items()})
        kept = made.by_chunk(chunk_tokens)
        for (start, stop), count in zip(_runs(shard.rows, chunk_tokens), kept.tolist(), strict=True):
            bounds.append((number, start, stop, count))
    table = np.array(bounds, dtype=np.int64).reshape(-1, 4)
    return Chunks(table[:, 0], table[:, 1], table[:, 2], table[:, 3], dict(left_out))


def _runs(rows: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, length):
        yield start, min(start + length, rows)
