"""Token and pooled rows of a split, and the chunks in which they are read and shuffled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrt.activations.aligned_rows import ALIGNED_FACTS, Spans
from lrt.activations.errors import StoreForeign
from lrt.activations.filter import RowFilter
from lrt.activations.store import ActivationStore, ShardReader
from lrt.corpora.splits import Split
from lrt.errors import InvalidValue
from lrt.models.sides import SIDES, Side

# columns that decide which row a token belongs to
FACTS = ("position", "token", "document", "group")


def facts_names(aligned: bool) -> tuple[str, ...]:
    """Columns that decide which row a token belongs to, where models have the same tokens or others."""
    return ALIGNED_FACTS if aligned else FACTS


@dataclass(frozen=True)
class TokenRows:
    """How `n` tokens become rows: each row is one token or the mean of a pool of tokens.

    Where the two models have different tokens, the `n` places hold both models' tokens, and spans. A row is
    then of spans: the mean over their tokens in each model, or the last token of a single one.

    row       [n] int64, the row that each token (or span) belongs to, counted from 0 in the store's order,
              or -1.
    times     [rows] int64, how often each row is repeated; None: once.
    excluded  Excluded tokens (or spans), bool by reason.
    sides     [n] int64 by side, the row that each token of a model belongs to; empty: `row`.
    """

    row: Tensor
    times: Tensor | None
    excluded: Mapping[str, Tensor]
    sides: Mapping[Side, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of rows, repeats included."""
        distinct = int(self.row.max()) + 1 if len(self.row) else 0
        return distinct if self.times is None else int(self.times.sum())

    def by_chunk(self, chunk_tokens: int) -> Tensor:
        """Number of rows, repeats included, in each chunk of `chunk_tokens` tokens, `[chunks]`."""
        first = torch.cat([torch.tensor([-1]), self.row.cummax(dim=0).values[:-1]]) < self.row
        chunk = torch.arange(len(self.row))[first] // chunk_tokens
        counts = torch.zeros(-(-len(self.row) // chunk_tokens), dtype=torch.int64)
        return counts.index_add_(0, chunk, torch.ones_like(chunk) if self.times is None else self.times)

    def gathered(self, values: Tensor, side: Side | None = None) -> Tensor:
        """Values per token `[n, ...]` as values per row `[count, ...]`.

        side  The model whose tokens they are of; None: of its spans, where models have different tokens.

        Floating-point values are averaged over a row's tokens; of integers the first token's is taken. The
        result is on the device of `values`.
        """
        row = self.row if side is None else self.sides.get(side, self.row)
        taken, device = row >= 0, values.device
        values, row = values[taken.to(device)], row[taken]
        distinct = int(row.max()) + 1 if len(row) else 0
        if len(row) == distinct:  # every row is one token
            rows = values
        elif not values.is_floating_point():
            first = torch.ones_like(row, dtype=torch.bool)
            first[1:] = row[1:] != row[:-1]
            rows = values[first.to(device)]
        else:
            counts = row.bincount(minlength=distinct).to(device)
            # a row's tokens are neighbours, and are added in their order on every device
            sums = torch.segment_reduce(values.float(), "sum", lengths=counts, axis=0)
            rows = sums / counts.view(-1, *[1] * (sums.ndim - 1))
        return rows if self.times is None else rows.repeat_interleave(self.times.to(device), dim=0)


RowKind = Literal["pooled", "tokens", "last_tokens"]


@dataclass(frozen=True)
class PartRule:
    """What one row is in one part of the corpus, where it differs from the other parts.

    rows    `pooled`: means over `pool` tokens, as everywhere. `tokens`: each token is a row. `last_tokens`:
            only the last token of each document is a row, as where a steering vector is read.
    repeat  How often each row is repeated.
    """

    part: str
    rows: RowKind = "pooled"
    repeat: int = 1

    def __post_init__(self) -> None:
        if self.rows not in get_args(RowKind):
            raise InvalidValue(
                f"corpus.sources.{self.part}.rows={self.rows}; it must be one of "
                f"{', '.join(get_args(RowKind))}"
            )
        if self.repeat < 1:
            raise InvalidValue(f"corpus.sources.{self.part}.repeat={self.repeat}; it must be at least 1")


@dataclass(frozen=True)
class SomeDocuments:
    """Documents whose tokens are rows: those with these ids or, where `excluded`, all others.

    Rows never span documents, so the rows of the two are those of all documents, each in one of them.
    """

    ids: tuple[int, ...]
    excluded: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(sorted(self.ids)))

    @cached_property
    def _ids(self) -> Tensor:
        return torch.tensor(self.ids, dtype=torch.int64)

    def among(self, documents: Tensor) -> Tensor:
        """`[n]` bool, whether a token of each of the documents `[n]` belongs to a row."""
        return torch.isin(documents, self._ids, invert=self.excluded)


@dataclass(frozen=True)
class Selection:
    """Which layers and tokens of a store a fit sees, and what one row is.

    source_layers, target_layers  Zero-based blocks; several are concatenated (paper appendix A).
    filter  The tokens to exclude.
    pool    Number of neighbouring tokens of one document whose mean is one row; 1: each token is a row.
            An affine map takes means to means, so the same map is fitted. But what distinguishes whole
            documents, as a difference of means does, is a small part of a token's variance and a large
            part of a mean's.
    parts   Parts of the corpus to use; empty: all.
    rules   Parts whose rows differ from the others'.
    documents  Documents to use; None: all.

    Raises InvalidValue for layers that are empty or repeated, and `pool` below 1.
    """

    source_layers: tuple[int, ...]
    target_layers: tuple[int, ...]
    filter: RowFilter
    pool: int = 1
    parts: tuple[str, ...] = ()
    rules: tuple[PartRule, ...] = ()
    documents: SomeDocuments | None = None

    def __post_init__(self) -> None:
        for name in ("source_layers", "target_layers", "parts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        rules = (rule if isinstance(rule, PartRule) else PartRule(*rule) for rule in self.rules)
        object.__setattr__(self, "rules", tuple(rules))
        for side in SIDES:
            layers = self.layers(side)
            if not layers or len(set(layers)) < len(layers):
                raise InvalidValue(f"layers.{side}={list(layers)}; name at least one block, each once")
        if self.pool < 1:
            raise InvalidValue(f"pool={self.pool}; it is a number of tokens and must be at least 1")

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """The selection that `to_data` wrote."""
        documents = data["documents"]
        return cls(
            **{
                **data,
                "filter": RowFilter(**data["filter"]),
                "documents": None if documents is None else SomeDocuments(**documents),
            }
        )

    def to_data(self) -> dict[str, Any]:
        """Plain containers: a checkpoint must load with weights_only=True."""
        return {
            "source_layers": list(self.source_layers),
            "target_layers": list(self.target_layers),
            "filter": {**asdict(self.filter), "token_ids": list(self.filter.token_ids)},
            "pool": self.pool,
            "parts": list(self.parts),
            "rules": [[rule.part, rule.rows, rule.repeat] for rule in self.rules],
            "documents": None
            if self.documents is None
            else {"ids": list(self.documents.ids), "excluded": self.documents.excluded},
        }

    def of_documents(self, ids: Iterable[int], *, excluded: bool) -> Self:
        """The same of the documents with these ids alone or, where `excluded`, of all others."""
        return replace(self, documents=SomeDocuments(tuple(ids), excluded))

    @property
    def names_documents(self) -> bool:
        """Whether only the rows of some documents are wanted, of which a split may have none."""
        return self.documents is not None and not self.documents.excluded

    def layers(self, side: Side) -> tuple[int, ...]:
        """The zero-based blocks of a side."""
        return self.source_layers if side == "source" else self.target_layers

    def columns(self, store: ActivationStore, side: Side) -> list[str]:
        """Names of the store's columns that are concatenated into a row of a side, in order."""
        return [store.column(side, layer) for layer in self.layers(side)]

    def rows(
        self,
        store: ActivationStore,
        reader: ShardReader,
        start: int,
        stop: int,
        chunk_tokens: int | None = None,
    ) -> TokenRows:
        """How a shard's tokens `start` to `stop` become rows. No row spans two chunks."""
        norms = norm_columns(store, self)
        return rows_of(
            self,
            {column: reader.rows(column, start, stop) for column in norms},
            {column: store.manifest.median_norms[column.removeprefix("norm.")] for column in norms},
            {name: reader.rows(name, start, stop) for name in facts_names(store.plan.aligned)},
            chunk_tokens,
            rules_of(store, self),
        )


@dataclass(frozen=True)
class PartRules:
    """A selection's parts and rules, with parts as numbers.

    used         [k] parts that are used; None: all.
    last_tokens  [k] parts of which only the last token of each document is a row.
    tokens       [k] parts of which each token is a row.
    times        [parts] how often rows are repeated; None: once.
    """

    used: Tensor | None = None
    last_tokens: Tensor | None = None
    tokens: Tensor | None = None
    times: Tensor | None = None

    @classmethod
    def of(cls, selection: Selection, groups: Sequence[str]) -> PartRules:
        """The rules for a corpus with these parts. Raises InvalidValue for a part that it lacks."""
        numbers = {name: number for number, name in enumerate(groups)}
        for part in (*selection.parts, *(rule.part for rule in selection.rules)):
            if part not in numbers:
                raise InvalidValue(
                    f"the corpus has the parts {list(groups)}, but no usable document of {part!r}: "
                    f"fix corpus.sources.{part}, or raise its weight"
                )
        times = torch.ones(len(groups), dtype=torch.int64)
        for rule in selection.rules:
            times[numbers[rule.part]] = rule.repeat
        last_tokens, tokens = (
            [numbers[rule.part] for rule in selection.rules if rule.rows == kind]
            for kind in ("last_tokens", "tokens")
        )
        return cls(
            torch.tensor([numbers[part] for part in selection.parts]) if selection.parts else None,
            torch.tensor(last_tokens) if last_tokens else None,
            torch.tensor(tokens) if tokens else None,
            times if (times > 1).any() else None,
        )


def rules_of(store: ActivationStore, selection: Selection) -> PartRules:
    """A selection's rules for a store's parts. Raises StoreForeign for a part that the store lacks."""
    try:
        return PartRules.of(selection, store.plan.groups)
    except InvalidValue as error:
        raise StoreForeign(f"{store.folder}: {error}") from error


def norm_columns(store: ActivationStore, selection: Selection) -> list[str]:
    """Names of the norm columns of a selection's layers. Raises StoreForeign for a missing layer."""
    return [f"norm.{column}" for side in SIDES for column in selection.columns(store, side)]


def rows_of(
    selection: Selection,
    norms: Mapping[str, Tensor],  # [n] by column
    medians: Mapping[str, float],  # by the same columns
    facts: Mapping[str, Tensor],  # FACTS or ALIGNED_FACTS: [n]
    chunk_tokens: int | None = None,
    rules: PartRules | None = None,
) -> TokenRows:
    """How `n` tokens in the store's order become rows.

    Pools lie on a grid of positions within the sequence, and end where a document or a chunk ends. A pool
    with fewer than half of its tokens is excluded: its mean is noisier, and a fit weighs all rows alike.

    Tokens of unused parts and documents belong to no row and are not counted as excluded. The same holds for
    all tokens but the last of a document in a part with `last_tokens`. That token is a row only if the whole
    document is known to lie within one sequence and one chunk: it does not begin at the start of either, and
    another document follows it, or it ends with the end of a chat's template, which is a span of no
    characters. (In a sequence that begins with the last few tokens of a document, its last
    token had six times the usual norm.)

    Where the two models have different tokens, all of this holds for spans in the place of tokens. A chunk is
    of whole sequences then. Raises InvalidValue as `Spans.excluded`.
    """
    rules = rules or PartRules()
    places = len(facts["position"])
    spans = Spans.of(facts) if "start.source" in facts else None

    def each(values: Tensor) -> Tensor:  # of each token, or span
        return values if spans is None else values[spans.place]

    position, document = each(facts["position"].long()), each(facts["document"].long())
    chunk = each(torch.arange(places) // (chunk_tokens or max(1, places)))
    keep = torch.ones(len(position), dtype=torch.bool)
    if rules.used is not None:
        keep = torch.isin(each(facts["group"]), rules.used)
    if selection.documents is not None:
        keep &= selection.documents.among(document)
    alone = torch.zeros_like(keep)  # tokens that are rows by themselves, whatever the pool
    if rules.last_tokens is not None:
        last = torch.zeros_like(keep)
        last[:-1] = (document[1:] != document[:-1]) & (chunk[1:] == chunk[:-1])
        if spans is not None:
            last |= ~spans.text  # a template's end: nothing of the document follows, whatever comes next
        new = _new(torch.stack([document, chunk]), position)
        begun = new & (position > 0)  # within this sequence, so that all of the document was read before
        begun[:1] = False
        begun[1:] &= chunk[1:] == chunk[:-1]
        last &= begun[new.nonzero()[:, 0]][new.long().cumsum(0) - 1]
        alone = torch.isin(each(facts["group"]), rules.last_tokens)
        keep &= ~alone | last
    if spans is not None:
        keep &= spans.text | alone
    if rules.tokens is not None:
        alone |= torch.isin(each(facts["group"]), rules.tokens)
    if spans is None:
        excluded = selection.filter.excluded(dict(norms), dict(medians), facts["position"], facts["token"])
    else:
        single = alone | (selection.pool == 1)
        excluded = spans.excluded(selection.filter, norms, medians, facts, single)
    excluded = {reason: mask & keep for reason, mask in excluded.items()}
    for mask in excluded.values():
        keep = keep & ~mask
    pool = torch.arange(len(keep))
    if selection.pool > 1:
        new = _new(torch.stack([position // selection.pool, document, chunk]), position) | alone
        pool = new.long().cumsum(0) - 1
        sizes = torch.zeros(int(new.sum()), dtype=torch.int64).index_add_(0, pool, keep.long())
        # a last token is a row even though its pool is one token
        excluded["short pool"] = keep & ~alone & (2 * sizes < selection.pool)[pool]
        keep &= ~excluded["short pool"]
    row = torch.full_like(pool, -1)
    row[keep] = torch.unique_consecutive(pool[keep], return_inverse=True)[1]
    times = None
    if rules.times is not None:
        first = torch.ones(int(keep.sum()), dtype=torch.bool)
        first[1:] = row[keep][1:] != row[keep][:-1]
        times = rules.times[each(facts["group"])[keep][first].long()]
    if spans is None:
        return TokenRows(row, times, excluded)
    of_places = torch.full((places,), -1, dtype=torch.int64)
    of_places[spans.place] = row
    return TokenRows(of_places, times, excluded, spans.rows_of_tokens(row, single, places))


def _new(
    marks: Tensor,  # [k, n]
    position: Tensor,  # [n]
) -> Tensor:
    """[n] bool, tokens of which any mark differs from the token before, or which begin a sequence."""
    new = torch.ones(len(position), dtype=torch.bool)
    new[1:] = (marks[:, 1:] != marks[:, :-1]).any(dim=0) | (position[1:] <= position[:-1])
    return new


@dataclass(frozen=True)
class Chunks:
    """The chunks of a split: short runs of tokens that are read together and shuffled as one.

    Memory is four integers a chunk. Which token belongs to which row is computed when a chunk is read.
    """

    shard: npt.NDArray[np.int64]  # [chunks], index into store.shards(split)
    start: npt.NDArray[np.int64]  # [chunks], first token within the shard
    stop: npt.NDArray[np.int64]  # [chunks]
    counts: npt.NDArray[np.int64]  # [chunks], rows, repeats included
    excluded: dict[str, int] = field(default_factory=dict)  # tokens by reason

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def rows(self) -> int:
        """Number of token or pooled rows, repeats included."""
        return int(self.counts.sum())


def chunks_of(store: ActivationStore, split: Split, selection: Selection, chunk_tokens: int) -> Chunks:
    """Cut a split into chunks of at most `chunk_tokens` tokens and count their rows.

    chunk_tokens  Of whole sequences, where the two models have different tokens.

    Reads norms, positions, tokens and documents once, and no hidden state.
    """
    assert store.plan.whole_sequences(chunk_tokens) == chunk_tokens, "rows are within a chunk"
    bounds: list[tuple[int, int, int, int]] = []
    excluded: Counter[str] = Counter()
    for number, shard in enumerate(store.shards(split)):
        rows = selection.rows(store, store.reader(shard), 0, shard.rows, chunk_tokens)
        excluded.update({reason: int(mask.sum()) for reason, mask in rows.excluded.items()})
        counts = rows.by_chunk(chunk_tokens).tolist()
        for start, count in zip(range(0, shard.rows, chunk_tokens), counts, strict=True):
            bounds.append((number, start, min(start + chunk_tokens, shard.rows), count))
    table = np.array(bounds, dtype=np.int64).reshape(-1, 4)
    return Chunks(table[:, 0], table[:, 1], table[:, 2], table[:, 3], dict(excluded))
