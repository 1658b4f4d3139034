"""The forward pass of both models of a pair over packed sequences.

Everything that needs hidden states of both models uses this pass: recording a store, rows on the fly for sums
over many layers (whose states would fill a disk), and median norms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrt.activations.chunks import PartRules, Selection, SomeDocuments, rows_of
from lrt.activations.errors import NonFiniteActivations
from lrt.activations.host_copy import begin_copy, copies_aside
from lrt.activations.plan import NonFinite, check_layers, dtype_name
from lrt.corpora import BOUNDS, PADDING, PackedCorpus, Sequences, Split
from lrt.errors import InvalidValue
from lrt.models.hardware import CPU
from lrt.models.sides import SIDES, Side
from lrt.models.stacked import StateModel


@dataclass(frozen=True)
class BatchStates:
    """States of both models at all tokens of one batch of sequences; on the CPU, if they are copied there.

    States and norms of padding, behind a sequence's own tokens, are zeros.

    first, stop  The batch is sequences `first` to `stop` of the split.
    states       [n, d] in the model's dtype, by `source.LAYER` and `target.LAYER`; zeros if not finite.
    norms        [n] float32 Euclidean norms on the CPU, by the same names; infinite if the state is not
                 finite.
    non_finite   Number of tokens whose state is infinite or NaN, by the same names; zeros are omitted.
    """

    first: int
    stop: int
    states: dict[str, Tensor]
    norms: dict[str, Tensor]
    non_finite: dict[str, int]


@dataclass(frozen=True)
class _Running:
    """A batch whose states and norms may still be on their way to the CPU, by side and layer."""

    first: int
    stop: int
    states: dict[tuple[Side, int], Callable[[], Tensor]]
    norms: dict[tuple[Side, int], Callable[[], Tensor]]


class PairedForward:
    """Both models at some layers, with what to do about states that are infinite or NaN.

    layers  By side, the zero-based blocks.
    stay    Leave states on their models' devices; norms are on the CPU all the same.

    Raises InvalidValue for layers that a model does not have and for `batch_tokens` below 1.
    """

    def __init__(
        self,
        source: StateModel,
        target: StateModel,
        source_layers: Sequence[int],
        target_layers: Sequence[int],
        *,
        batch_tokens: int,
        non_finite: NonFinite = "refuse",
        stay: bool = False,
    ) -> None:
        if batch_tokens < 1:
            raise InvalidValue(f"recording.batch_tokens={batch_tokens}; it must be at least 1")
        self._models: dict[Side, StateModel] = {"source": source, "target": target}
        self.layers: dict[Side, Sequence[int]] = {"source": source_layers, "target": target_layers}
        for side in SIDES:
            check_layers(self._models[side], side, self.layers[side])
        self._batch_tokens = batch_tokens
        self._non_finite = non_finite
        self._stay = stay

    def batches(
        self,
        corpus: PackedCorpus,
        split: Split,
        first: int = 0,
        stop: int | None = None,
        documents: SomeDocuments | None = None,
    ) -> Iterator[BatchStates]:
        """Run both models over sequences `first` to `stop` of a split, one batch after another.

        Batches without a token of `documents` are skipped; the others are as they would be without it.

        The first batch begins at `first`. The shapes of the products, and with them the last bits of the
        states, depend on that.

        Raises NonFiniteActivations if a state is infinite or NaN and `non_finite` is `refuse`.
        """
        sequences = corpus.splits[split]
        stop = len(sequences) if stop is None else stop
        each = max(1, self._batch_tokens // corpus.context)
        # a GPU runs the next batch while the states of this one are copied
        ahead = int(any(copies_aside(model.device) for model in self._models.values()))
        running: deque[_Running] = deque()
        for begin in range(first, stop, each):
            if documents is not None:
                owners = _copied(sequences.documents, begin, min(begin + each, stop))
                if not documents.among(owners).any():
                    continue
            running.append(self._launch(sequences, begin, min(begin + each, stop)))
            if len(running) > ahead:
                yield self._finish(running.popleft(), sequences, split)
        while running:
            yield self._finish(running.popleft(), sequences, split)

    def _launch(self, sequences: Sequences, first: int, stop: int) -> _Running:
        """Run both models over a batch, and begin to copy its states and norms."""
        running = _Running(first, stop, {}, {})
        for side in SIDES:
            model = self._models[side]
            tokens = _copied(sequences.tokens_of(side), first, stop).long()  # [b, context], or of each model
            if sequences.alignment is not None:  # padding stands at the end, where no token reads it
                tokens = tokens.where(tokens != PADDING, 0)
            hidden = model.hidden_states(tokens.to(model.device), list(self.layers[side]))
            for layer in self.layers[side]:
                states = hidden.pop(layer).flatten(0, 1)
                # in float32: bfloat16 norms would be off in the third digit
                norms = torch.linalg.vector_norm(states.float(), dim=-1)
                running.norms[side, layer] = begin_copy(norms)
                running.states[side, layer] = partial(_same, states) if self._stay else begin_copy(states)
        return running

    def _finish(self, running: _Running, sequences: Sequences, split: Split) -> BatchStates:
        """The batch, once its copies are there."""
        batch = BatchStates(running.first, running.stop, {}, {}, {})
        for (side, layer), copied in running.states.items():
            name, states, norms = f"{side}.{layer}", copied(), running.norms[side, layer]()
            if sequences.alignment is not None:
                empty = torch.from_numpy(sequences.padding_of(side, running.first, running.stop))
                padding = empty.flatten().nonzero().flatten()
                norms[padding] = 0
                states[padding.to(states.device)] = 0
            # an infinite or NaN entry makes the norm so, and norms are cheap to check
            bad = (~norms.isfinite()).nonzero().flatten()
            if len(bad):
                if self._non_finite == "refuse":
                    raise self._refused(side, layer, bad, sequences, split, batch)
                batch.non_finite[name] = len(bad)
                norms[bad] = torch.inf
                states[bad.to(states.device)] = 0
            batch.states[name], batch.norms[name] = states, norms
        return batch

    def _refused(
        self, side: Side, layer: int, bad: Tensor, sequences: Sequences, split: Split, batch: BatchStates
    ) -> NonFiniteActivations:
        model = self._models[side]
        offset, position = divmod(int(bad[0]), sequences.tokens.shape[1])
        sequence = batch.first + offset
        token = sequences.tokens_of(side)[sequence, position]
        document = "" if sequences.alignment else f", document {sequences.documents[sequence, position]}"
        return NonFiniteActivations(
            f"the {side} model {model.spec.name} has infinite or NaN hidden states at layer {layer}, for "
            f"{len(bad)} tokens of a batch. The first is at {split} sequence {sequence}, position {position} "
            f"(token {token}{document}). The model ran in "
            f"{dtype_name(model.dtype)}; run it in bfloat16 or float32 (pair.{side}.dtype), or exclude such "
            "tokens (recording.non_finite=exclude)"
        )


def facts_of(sequences: Sequences, batch: BatchStates) -> dict[str, Tensor]:
    """Position, token, document and group (`FACTS`) of each token of a batch, `[n]`.

    Where the two models have different tokens, those of each (`ALIGNED_FACTS`).
    """
    count, context = batch.stop - batch.first, sequences.tokens.shape[1]

    def of_batch(values: npt.NDArray[np.integer]) -> Tensor:
        return _copied(values, batch.first, batch.stop).flatten(0, 1)

    facts = {
        "position": torch.arange(context, dtype=torch.int32).repeat(count),
        "document": of_batch(sequences.documents),
        "group": of_batch(sequences.groups).int(),
    }
    if sequences.alignment is None:
        return {**facts, "token": of_batch(sequences.tokens)}
    bounds = of_batch(sequences.alignment.bounds)
    tokens = {f"token.{side}": of_batch(sequences.tokens_of(side)) for side in SIDES}
    return {**facts, **tokens, **dict(zip(BOUNDS, bounds.T.contiguous(), strict=True))}


def _copied(values: npt.NDArray[np.integer], first: int, stop: int) -> Tensor:
    # copied: a memory-mapped corpus may be read-only
    return torch.from_numpy(np.array(values[first:stop]))


def _same(states: Tensor) -> Tensor:
    return states


@dataclass(frozen=True)
class PairedRows:
    """Token or pooled rows of one batch of sequences at every layer of both models, in float32.

    sequences   Number of the split's sequences that are done, counted from its first. A pass can be continued
                from there.
    non_finite  Tokens of this batch whose state is infinite or NaN, by `source.LAYER` and `target.LAYER`;
                zeros are omitted. Such a token belongs to no row.
    excluded    Excluded tokens of this batch, by reason.
    """

    source: Mapping[int, Tensor]  # layer: [n, d_source]
    target: Mapping[int, Tensor]  # layer: [n, d_target]
    document: Tensor  # [n] int64, on the CPU
    sequences: int
    non_finite: Mapping[str, int]
    excluded: Mapping[str, int]


def paired_rows(
    source: StateModel,
    target: StateModel,
    selection: Selection,
    corpus: PackedCorpus,
    split: Split,
    *,
    medians: Mapping[str, float],
    batch_tokens: int,
    non_finite: NonFinite = "refuse",
    start: int = 0,
    device: torch.device = CPU,
) -> Iterator[PairedRows]:
    """Token or pooled rows of every layer, from one pass of both models over a split's sequences in order.

    The rows equal those of a store of the same sequences, provided that `selection.pool` divides the context
    (otherwise the chunks of a store may cut a pool in two). A token that is massive at *any* layer is
    excluded at all of them, so every pair of layers has the same rows.

    Args:
        medians: median norms by `source.LAYER` and `target.LAYER` (`median_norms`, or a store's manifest).
            Used only if `selection.filter` has a `max_norm_ratio`.
        batch_tokens: tokens in one forward pass, rounded down to whole sequences, at least one.
        non_finite: `refuse` a state that is infinite or NaN, or `exclude` its token and count it.
        start: sequences to skip. A pass that starts where a batch of another ended has the same batches from
            there on, so sums over them have the same bits.
        device: where the rows of both models lie. Unless that is the CPU, or MPS (which has no sums of
            segments), they are computed where the models are.

    Raises:
        InvalidValue: before any work, for a layer that a model lacks, `batch_tokens` below 1, and a part that
            the corpus lacks.
        ValueError: before any work, for `start` outside the split and a missing median.
        NonFiniteActivations: during the pass; names model, layer and token.
    """
    forward = PairedForward(
        source,
        target,
        selection.source_layers,
        selection.target_layers,
        batch_tokens=batch_tokens,
        non_finite=non_finite,
        stay=device.type not in ("cpu", "mps"),
    )
    rules = PartRules.of(selection, corpus.groups)
    count = len(corpus.splits[split])
    if not 0 <= start <= count:
        raise ValueError(f"start={start} is outside the {split} split, which has {count} sequences")
    if selection.filter.max_norm_ratio is not None:
        names = [f"{side}.{layer}" for side in SIDES for layer in selection.layers(side)]
        if missing := [name for name in names if name not in medians]:
            raise ValueError(
                f"median norms of {', '.join(missing)} are missing: compute them with median_norms"
            )
    return _rows(forward, selection, rules, corpus, split, medians, start, device)


def _rows(
    forward: PairedForward,
    selection: Selection,
    rules: PartRules,
    corpus: PackedCorpus,
    split: Split,
    medians: Mapping[str, float],
    start: int,
    device: torch.device,
) -> Iterator[PairedRows]:
    for batch in forward.batches(corpus, split, start, documents=selection.documents):
        facts = facts_of(corpus.splits[split], batch)
        rows = rows_of(selection, batch.norms, medians, facts, rules=rules)
        states: dict[Side, dict[int, Tensor]] = {
            side: {
                # popped: each layer's tokens are freed as soon as they are rows
                layer: rows.gathered(batch.states.pop(f"{side}.{layer}"), side).float().to(device)
                for layer in selection.layers(side)
            }
            for side in SIDES
        }
        yield PairedRows(
            states["source"],
            states["target"],
            rows.gathered(facts["document"]),
            batch.stop,
            batch.non_finite,
            {reason: int(mask.sum()) for reason, mask in rows.excluded.items()},
        )


def median_norms(
    source: StateModel,
    target: StateModel,
    source_layers: Sequence[int],
    target_layers: Sequence[int],
    corpus: PackedCorpus,
    *,
    at_most_tokens: int,
    batch_tokens: int,
    non_finite: NonFinite = "refuse",
) -> dict[str, float]:
    """Median norm at every layer, by `source.LAYER` and `target.LAYER`, without position 0.

    Computed over the first `at_most_tokens` training tokens, in whole sequences and at least one. (A store's
    manifest has the median over all training tokens. Without a store that would double the cost, since the
    filter needs medians before the pass over the rows.)

    Raises InvalidValue for a training split without sequences, a layer that a model lacks and `batch_tokens`
    below 1, and NonFiniteActivations as `paired_rows`.
    """
    forward = PairedForward(
        source, target, source_layers, target_layers, batch_tokens=batch_tokens, non_finite=non_finite
    )
    if at_most_tokens < 1:
        raise ValueError(f"at_most_tokens={at_most_tokens}; a median needs at least one token")
    count = len(corpus.splits["train"])
    if count == 0:
        raise InvalidValue(
            "the train split has no sequence, so norms have no median; raise corpus.tokens.train"
        )
    stop = min(count, max(1, at_most_tokens // corpus.context))
    norms: dict[str, list[Tensor]] = {}
    sequences = corpus.splits["train"]
    for batch in forward.batches(corpus, "train", stop=stop):
        for side in SIDES:
            read = torch.from_numpy(~sequences.padding_of(side, batch.first, batch.stop)[:, 1:])
            for layer in forward.layers[side]:
                norm = batch.norms[f"{side}.{layer}"].view(-1, corpus.context)[:, 1:]
                norms.setdefault(f"{side}.{layer}", []).append(norm[read])
    return {name: float(torch.cat(parts).median()) for name, parts in norms.items()}
