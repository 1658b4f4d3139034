"""Fidelity of a map: the target's predictions when its hidden state is replaced by the mapped one.

The fraction of variance unexplained weighs all directions alike; the target does not. So its hidden
state at the layer is replaced at every position by the mapped source state, and the next-token
predictions are compared with its own. Loss recovered is 1 for the unchanged target and 0 for the target
with its mean state everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.evaluation.statistics import Array, Estimate, ratio_estimate
from lrt.mapping import AffineMap, LayerConcat
from lrt.models.decoding import NonFiniteLogits
from lrt.models.hooks import Edit, capture
from lrt.models.language_model import LanguageModel
from lrt.models.memory import row_bytes, run_in_batches
from lrt.models.prefix import compute_prefix, tail_logits
from lrt.steering.stitched import (
    Stitched,
    StitchedCost,
    check_token_ids,
    check_tokens,
    source_concat,
)

TARGET, SOURCE, MEAN = "target", "source", "mean ablated"
T = TypeVar("T")


@dataclass(frozen=True)
class FidelityRow:
    """One table row: a map, the `target` itself, the `source` itself or `mean ablated`.

    Intervals are percentile bootstraps over sequences; every token has the same weight.

    cross_entropy   Of the next token, nats per token.
    kl              KL(target || row), nats per token; None for a source with a head of another width.
    agreement       Share of tokens where both have the same most likely token; None likewise.
    loss_recovered  `(CE_mean - CE_row) / (CE_mean - CE_target)`; None where the mean state costs no loss
                    (its interval contains zero).
    tokens          Number of scored predictions.
    sequences       Number of sequences; with one, intervals have no width.
    """

    name: str
    cross_entropy: Estimate
    kl: Estimate | None
    agreement: Estimate | None
    loss_recovered: Estimate | None
    tokens: int
    sequences: int

    def to_data(self) -> dict[str, Any]:
        """Plain data for a results file."""
        return asdict(self)


@dataclass(frozen=True)
class StitchingDepth:
    """The stitched model at one target layer.

    depth          Share of the target's blocks that the source and the map replace.
    cross_entropy  Of the next token, nats per token, with its bootstrap over sequences.
    """

    layer: int
    source_layers: tuple[int, ...]
    depth: float
    cross_entropy: Estimate
    cost: StitchedCost

    def to_data(self) -> dict[str, Any]:
        """Plain data for a results file."""
        return {**asdict(self), "cost": self.cost.to_data()}


def inside_documents(
    documents: Tensor,  # [b, t] integer
) -> Tensor:  # [b, t] bool
    """Mask of tokens that follow another token of their document, in sequences packed from many documents.

    The first token of a sequence or document has nothing to be predicted from.
    """
    same = torch.zeros_like(documents, dtype=torch.bool)
    same[:, 1:] = documents[:, 1:] == documents[:, :-1]
    return same


@torch.no_grad()
def fidelity(
    source: LanguageModel,
    target: LanguageModel,
    source_layers: LayerConcat | Sequence[int],
    layer: int,
    maps: Mapping[str, AffineMap],
    tokens: Tensor,  # [b, t] long
    mean_state: Tensor,  # [d_target]
    *,
    scored: Tensor | None = None,  # [b, t] bool
    keep_first: bool = False,
    batch_rows: int = 8,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[FidelityRow]:
    """Run the target from mapped states: table rows `target`, `source`, `mean ablated`, then each map.

    All table rows share one pass of the source and one of the target up to `layer`; the target's blocks
    above it run for each.

    source_layers  Decoder blocks of the source, side by side in this order, that all maps read.
    layer          The target's decoder block whose output is replaced.
    tokens         Sequences without padding on the left. Exclude padding on the right by `scored`.
    mean_state     The target's mean hidden state at the layer, over similar text.
    scored         Tokens whose prediction counts (see `inside_documents`); by default all but each
                   sequence's first.
    keep_first     Use the target's own state at position 0, and do not score the prediction from it
                   alone. Many models have a massive activation there, which later tokens attend to
                   and map fits exclude. The lab's models have none.
    batch_rows     Most sequences in one batch; fewer where the target's device holds fewer. Memory is a few
                   float32 tables of `batch_rows x t x vocabulary`, for any number of sequences and maps.
    seed           Of the bootstrap.
    progress       Called with the number of sequences done.

    Raises ValueError for arguments that do not fit together and for a map named as another table row.
    Raises InvalidValue for models that do not share token ids, sequences without a scored token, and
    predictions that are not finite.
    """
    taken = {TARGET, SOURCE, MEAN} & set(maps)
    if taken:
        raise ValueError(f"a map is named {min(taken)!r}, which is another row of the table; rename it")
    if mean_state.shape != (target.width,) or not bool(mean_state.isfinite().all()):
        raise ValueError(
            f"mean_state must be [{target.width}] and finite, the mean hidden state of {target.spec.name} at "
            f"layer {layer}; got shape {list(mean_state.shape)}"
        )
    stitched = {name: Stitched(source, target, affine, source_layers, layer) for name, affine in maps.items()}
    check_token_ids(source, target)
    concat, layer = source_concat(source, source_layers), target.resolve_layer(layer, "layer")
    wanted = _scored(tokens, scored, keep_first, source, target)
    sums = {name: _Sums() for name in (TARGET, SOURCE, MEAN, *maps)}
    mean = mean_state.to(target.device, target.dtype)

    def scores_of(some: slice, _: int) -> dict[str, Tensor]:
        batch = tokens[some].cpu()
        columns = torch.arange(batch.shape[1] - 1)  # the token after the last one is unknown
        scores = _Scores(batch, wanted[some])
        prefix = compute_prefix(target, batch, None, layer, cache=False)
        every = torch.arange(len(batch))

        def tail(edit: Edit) -> Tensor:
            return scores.chosen(tail_logits(target, prefix, every, edit, columns))

        own = tail(lambda hidden, _: hidden).log_softmax(dim=-1)  # [n, V]
        batch_scores = {TARGET: scores.against(own, own)}
        with capture(source, concat.layers) as states:
            logits = scores.chosen(source.logits(batch, keep=columns)).to(own.device)
        batch_scores[SOURCE] = scores.against(logits.log_softmax(dim=-1), own)
        del logits  # [n, V]
        replaced = {MEAN: mean.expand_as(prefix.hidden)}
        for name in (MEAN, *maps):
            state = replaced[name] if name == MEAN else stitched[name].image(states)
            try:
                predicted = tail(_Replacement(state, keep_first)).log_softmax(dim=-1)
            except NonFiniteLogits as error:
                raise InvalidValue(f"the predictions of {name} are not finite: {error}") from error
            batch_scores[name] = scores.against(predicted, own)
        return batch_scores

    for batch_scores in _in_batches(target, tokens, scores_of, batch_rows):
        for name, part in batch_scores.items():
            sums[name].add(name, part)
        if progress is not None:
            progress(len(batch_scores[TARGET]))
    counts = wanted.sum(dim=1).double().cpu().numpy()
    return [_row(name, sums, counts, seed) for name in sums]


@torch.no_grad()
def stitching_depths(
    source: LanguageModel,
    target: LanguageModel,
    cuts: Mapping[int, tuple[LayerConcat | Sequence[int], AffineMap]],
    tokens: Tensor,  # [b, t] long
    *,
    scored: Tensor | None = None,  # [b, t] bool
    keep_first: bool = False,
    batch_rows: int = 8,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[StitchingDepth]:
    """Cross-entropy of the stitched model (paper section 5) by stitching depth, in rising order.

    cuts  For each target layer: the source layers, and the map from them to it. The source runs once a
          batch for all of them.

    Other arguments and exceptions as in `fidelity`.
    """
    if not cuts:
        raise ValueError("`cuts` is empty; it needs source layers and a map for at least one target layer")
    models = {
        at: Stitched(source, target, affine, layers, at, keep_first=keep_first)
        for at, (layers, affine) in sorted(cuts.items())
    }
    wanted = _scored(tokens, scored, keep_first, source, target)
    read = sorted({at for model in models.values() for at in model.source_layers.layers})
    sums = {at: _Sums() for at in models}

    def scores_of(some: slice, _: int) -> dict[int, Tensor]:
        batch = tokens[some].cpu()
        columns = torch.arange(batch.shape[1] - 1)
        scores, batch_scores = _Scores(batch, wanted[some]), {}
        states = source.hidden_states(batch, read)
        for at, model in models.items():
            logits = scores.chosen(model.logits_from(states, batch, keep=columns))
            batch_scores[at] = scores.alone(logits.log_softmax(dim=-1))
        return batch_scores

    for batch_scores in _in_batches(target, tokens, scores_of, batch_rows):
        for at, part in batch_scores.items():
            sums[at].add(f"the model stitched at layer {at}", part)
        if progress is not None:
            progress(len(next(iter(batch_scores.values()))))
    counts = wanted.sum(dim=1).double().cpu().numpy()
    return [
        StitchingDepth(
            at,
            model.source_layers.layers,
            (at + 1) / target.depth,
            _per_token(sums[at].column(0), counts, seed),
            model.cost(),
        )
        for at, model in models.items()
    ]


@dataclass(frozen=True)
class _Replacement:
    """The edit that replaces the model's hidden states."""

    states: Tensor  # [b, t, d]
    keep_first: bool

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        if not self.keep_first:
            return self.states
        return torch.where((positions == 0)[..., None], hidden, self.states)


class _Scores:
    """Predictions of one batch, reduced to sums over each sequence, float64 on the CPU."""

    def __init__(self, batch: Tensor, scored: Tensor) -> None:
        self._scored = scored[:, 1:]  # [b, t - 1], by the predicting column
        self._rows = len(batch)
        self._next = batch[:, 1:][self._scored]  # [n]
        self._row = self._scored.nonzero()[:, 0]  # [n]

    def chosen(
        self,
        logits: Tensor,  # [b, t - 1, V]
    ) -> Tensor:  # [n, V]
        """The scored predictions."""
        return logits[self._scored.to(logits.device)]

    def alone(
        self,
        log_probabilities: Tensor,  # [n, V]
    ) -> Tensor:  # [b, 1]
        """Cross-entropy, nats."""
        following = self._next.to(log_probabilities.device)[:, None]
        return self._by_row(-log_probabilities.gather(1, following))

    def against(
        self,
        log_probabilities: Tensor,  # [n, V]
        own: Tensor,  # [n, V], the target's
    ) -> Tensor:  # [b, 3]
        """Cross-entropy, KL(own || these) and agreements; the last two nan where the heads differ."""
        loss = self.alone(log_probabilities)
        if log_probabilities.shape != own.shape:
            return torch.cat([loss, loss.new_full((self._rows, 2), torch.nan)], dim=1)
        kl = torch.nn.functional.kl_div(log_probabilities, own, reduction="none", log_target=True).sum(dim=-1)
        agree = log_probabilities.argmax(dim=-1) == own.argmax(dim=-1)
        return torch.cat([loss, self._by_row(torch.stack([kl, agree.to(kl)], dim=1))], dim=1)

    def _by_row(self, values: Tensor) -> Tensor:
        sums = torch.zeros(self._rows, values.shape[1], dtype=torch.float64)
        return sums.index_add(0, self._row, values.double().cpu())


class _Sums:
    """Sums over each sequence, collected batch by batch."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, name: str, part: Tensor) -> None:
        """Raise InvalidValue where the cross-entropy is not finite."""
        if not bool(part[:, 0].isfinite().all()):
            raise InvalidValue(
                f"the predictions of {name} are not finite: a hidden state exceeds the range of the model's "
                "dtype; load the model in bfloat16 or float32"
            )
        self._parts.append(part)

    def column(self, index: int) -> Array:
        """`[sequences]`."""
        return np.asarray(torch.cat(self._parts)[:, index].numpy(), dtype=np.float64)


def _row(name: str, sums: Mapping[str, _Sums], counts: Array, seed: int) -> FidelityRow:
    loss, kl, agree = (sums[name].column(index) for index in range(3))
    ablated, intact = sums[MEAN].column(0), sums[TARGET].column(0)
    comparable = not bool(np.isnan(kl).any())
    return FidelityRow(
        name,
        cross_entropy=_per_token(loss, counts, seed),
        kl=_per_token(kl, counts, seed) if comparable else None,
        agreement=_per_token(agree, counts, seed) if comparable else None,
        loss_recovered=ratio_estimate(ablated - loss, ablated - intact, seed),
        tokens=int(counts.sum()),
        sequences=len(counts),
    )


def _per_token(sums: Array, counts: Array, seed: int) -> Estimate:
    estimate = ratio_estimate(sums, counts, seed)
    assert estimate is not None, "every sequence has a scored token"
    return estimate


def _scored(
    tokens: Tensor, scored: Tensor | None, keep_first: bool, source: LanguageModel, target: LanguageModel
) -> Tensor:  # [b, t] bool on the CPU
    """The tokens to score. Raises InvalidValue unless each sequence has one."""
    check_tokens(tokens, source, target)
    wanted = torch.ones_like(tokens, dtype=torch.bool) if scored is None else scored
    if wanted.shape != tokens.shape or wanted.dtype != torch.bool:
        raise ValueError(
            f"`scored` is {wanted.dtype} {list(wanted.shape)}; it must be bool with the tokens' shape "
            f"{list(tokens.shape)}"
        )
    wanted = wanted.clone().cpu()
    wanted[:, : 2 if keep_first else 1] = False
    empty = (~wanted.any(dim=1)).nonzero().flatten()
    if len(empty):
        raise InvalidValue(
            f"{len(empty)} of {len(tokens)} sequences have no token to score, the first at index "
            f"{int(empty[0])}; exclude them, or use longer ones (they have {tokens.shape[1]} tokens, and the "
            f"first {2 if keep_first else 1} are never scored)"
        )
    return wanted


def _in_batches(
    target: LanguageModel, tokens: Tensor, run: Callable[[slice, int], T], batch_rows: int
) -> Iterator[T]:
    if batch_rows < 1:
        raise ValueError(f"batch_rows={batch_rows} must be at least 1")
    rows, length = tokens.shape
    needed = row_bytes(target, length, logits=length)
    return run_in_batches(target, rows, needed, run, max_rows=batch_rows)
