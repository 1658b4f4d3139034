"""A map judged by what the target makes of it: the mapped state in the place of its own.

The fraction of variance unexplained weighs all directions alike; the target does not. So its hidden
state at the layer is replaced at every position by the image of the source's, the blocks above run
on, and the next-token predictions are compared with its own. Scale of the loss: 1 is the target
untouched, 0 the target that sees its mean state everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrt.evaluation.statistics import Array, Estimate, ratio_estimate
from lrt.mapping import AffineMap, LayerConcat
from lrt.models.hooks import Edit, capture
from lrt.models.language_model import LanguageModel
from lrt.models.prefix import compute_prefix, tail_logits
from lrt.steering.stitched import (
    Stitched,
    StitchedCost,
    check_token_ids,
    check_tokens,
    source_stack,
)

TARGET, SOURCE, MEAN = "target", "source", "mean ablated"


@dataclass(frozen=True)
class Fidelity:
    """One row of the table: a map, the `target` itself, the `source` itself or `mean ablated`.

    Intervals are percentile bootstraps over sequences, tokens weighing alike.

    cross_entropy   Of the next token, nats per token.
    kl              KL(target || row), nats per token; None for a source with a head of another width.
    agreement       Share of tokens where both have the same most likely token; None likewise.
    loss_recovered  `(CE_mean - CE_row) / (CE_mean - CE_target)`; None where the mean state does no harm
                    (its interval holds zero), since there is then no loss to recover.
    tokens          Predictions scored.
    sequences       Rows of tokens that they come from; of one alone the intervals have no width.
    """

    name: str
    cross_entropy: Estimate
    kl: Estimate | None
    agreement: Estimate | None
    loss_recovered: Estimate | None
    tokens: int
    sequences: int

    def to_data(self) -> dict[str, Any]:
        """Plain figures for a results file."""
        return asdict(self)


@dataclass(frozen=True)
class StitchingDepth:
    """The stitched model cut at one target layer.

    depth          Share of the target's blocks that the source's and the map stand in for.
    cross_entropy  Of the next token, nats per token, with its bootstrap over sequences.
    """

    layer: int
    source_layers: tuple[int, ...]
    depth: float
    cross_entropy: Estimate
    cost: StitchedCost

    def to_data(self) -> dict[str, Any]:
        """Plain figures for a results file."""
        return {**asdict(self), "cost": self.cost.to_data()}


def inside_documents(
    documents: Tensor,  # [b, t] integer
) -> Tensor:  # [b, t] bool
    """The tokens that follow another of their own document: those that can be predicted.

    For blocks packed from many documents. Neither a row's first token nor a document's is one.
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
) -> list[Fidelity]:
    """The target run on from mapped states: rows `target`, `source`, `mean ablated`, then each map.

    All rows of a batch share one pass of the source and one of the target up to `layer`; only the
    target's blocks above it run for each.

    source_layers  Blocks of the source, side by side in this order, that all the maps take.
    layer          The target's block whose output is replaced.
    tokens         Sequences without padding on the left; padding on the right is harmless where
                   `scored` leaves it out.
    mean_state     The target's mean hidden state at the layer, over text like this.
    scored         Tokens whose prediction counts (see `inside_documents`); by default all but the
                   first of a row, which nothing predicts.
    keep_first     Leave the target its own state at position 0, and do not score what it predicts
                   from it alone. Many models keep a massive activation there, which later tokens
                   attend to and fits leave out: a row that misses it is charged for a state that the
                   map was never asked for. The lab's models have none.
    batch_rows     Sequences run at once. Memory is a few float32 tables of
                   `batch_rows x t x vocabulary`, whatever the number of sequences and maps.
    seed           Of the bootstrap.
    progress       Called with the number of sequences done.

    Raises ValueError for layers, maps, tokens or a mean state that do not fit, models that do not
    share token ids, a map named as another row, nothing to score, and predictions that are not
    finite.
    """
    taken = {TARGET, SOURCE, MEAN} & set(maps)
    if taken:
        raise ValueError(f"a map is named {min(taken)!r}, as another row of the table; name it otherwise")
    if mean_state.shape != (target.width,) or not bool(mean_state.isfinite().all()):
        raise ValueError(
            f"mean_state must be [{target.width}] and finite, the mean hidden state of {target.spec.name} at "
            f"layer {layer}; got shape {list(mean_state.shape)}"
        )
    stitched = {name: Stitched(source, target, affine, source_layers, layer) for name, affine in maps.items()}
    check_token_ids(source, target)
    stack, layer = source_stack(source, source_layers), target.resolve_layer(layer, "layer")
    wanted = _scored(tokens, scored, keep_first, source, target)
    sums = {name: _Sums() for name in (TARGET, SOURCE, MEAN, *maps)}
    mean = mean_state.to(target.device, target.dtype)
    for batch, kept in _batches(tokens, wanted, batch_rows):
        columns = torch.arange(batch.shape[1] - 1)  # the last token predicts nothing that is known
        scores = _Scores(batch, kept)
        prefix = compute_prefix(target, batch, None, layer, cache=False)
        every = torch.arange(len(batch))

        def tail(edit: Edit) -> Tensor:
            return scores.chosen(tail_logits(target, prefix, every, edit, columns))  # noqa: B023

        own = tail(lambda hidden, _: hidden).log_softmax(dim=-1)  # [n, V]
        sums[TARGET].add(TARGET, scores.against(own, own))
        with capture(source, stack.layers) as states:
            seen = scores.chosen(source.logits(batch, keep=columns)).to(own.device)
        sums[SOURCE].add(SOURCE, scores.against(seen.log_softmax(dim=-1), own))
        del seen
        replaced = {MEAN: mean.expand_as(prefix.hidden)}
        for name in (MEAN, *maps):
            state = replaced[name] if name == MEAN else stitched[name].image(states)
            found = tail(_Replacement(state, keep_first)).log_softmax(dim=-1)
            sums[name].add(name, scores.against(found, own))
        if progress is not None:
            progress(len(batch))
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
    """Cross-entropy of the stitched model (paper section 5) against the depth of the cut.

    cuts  For each target layer the source layers and the map from them to it. The source runs once
          for all cuts of a batch.

    The other arguments, and what is raised, are those of `fidelity`. Cuts come in order of depth.
    """
    if not cuts:
        raise ValueError("`cuts` is empty; give source layers and a map for at least one target layer")
    models = {
        at: Stitched(source, target, affine, layers, at, keep_first=keep_first)
        for at, (layers, affine) in sorted(cuts.items())
    }
    wanted = _scored(tokens, scored, keep_first, source, target)
    read = sorted({at for model in models.values() for at in model.stack.layers})
    sums = {at: _Sums() for at in models}
    for batch, kept in _batches(tokens, wanted, batch_rows):
        columns = torch.arange(batch.shape[1] - 1)
        scores = _Scores(batch, kept)
        states = source.hidden_states(batch, read)
        for at, model in models.items():
            logits = scores.chosen(model.logits_from(states, batch, keep=columns))
            sums[at].add(f"the cut at layer {at}", scores.alone(logits.log_softmax(dim=-1)))
        if progress is not None:
            progress(len(batch))
    counts = wanted.sum(dim=1).double().cpu().numpy()
    return [
        StitchingDepth(
            at,
            model.stack.layers,
            (at + 1) / target.depth,
            _per_token(sums[at].column(0), counts, seed),
            model.cost(),
        )
        for at, model in models.items()
    ]


@dataclass(frozen=True)
class _Replacement:
    """The edit that puts given states in the place of the model's own."""

    states: Tensor  # [b, t, d]
    keep_first: bool

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        if not self.keep_first:
            return self.states
        return torch.where((positions == 0)[..., None], hidden, self.states)


class _Scores:
    """Predictions of one batch, reduced to sums over each sequence, float64 on the CPU."""

    def __init__(self, batch: Tensor, kept: Tensor) -> None:
        self._kept = kept[:, 1:]  # [b, t - 1], by the column that predicts
        self._rows = len(batch)
        self._next = batch[:, 1:][self._kept]  # [n]
        self._row = self._kept.nonzero()[:, 0]  # [n]

    def chosen(
        self,
        logits: Tensor,  # [b, t - 1, V]
    ) -> Tensor:  # [n, V]
        """The predictions that are scored."""
        return logits[self._kept.to(logits.device)]

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
    """Sums over each sequence, batch after batch."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, name: str, part: Tensor) -> None:
        """Raises ValueError where the cross-entropy is not finite."""
        if not bool(part[:, 0].isfinite().all()):
            raise ValueError(
                f"the predictions of {name} are not finite: a hidden state left the range of the model's "
                "dtype; load the model in bfloat16 or float32"
            )
        self._parts.append(part)

    def column(self, index: int) -> Array:
        """`[sequences]`."""
        return np.asarray(torch.cat(self._parts)[:, index].numpy(), dtype=np.float64)


def _row(name: str, sums: Mapping[str, _Sums], counts: Array, seed: int) -> Fidelity:
    loss, kl, agree = (sums[name].column(index) for index in range(3))
    ablated, intact = sums[MEAN].column(0), sums[TARGET].column(0)
    comparable = not bool(np.isnan(kl).any())
    return Fidelity(
        name,
        cross_entropy=_per_token(loss, counts, seed),
        kl=_per_token(kl, counts, seed) if comparable else None,
        agreement=_per_token(agree, counts, seed) if comparable else None,
        loss_recovered=ratio_estimate(ablated - loss, ablated - intact, seed),
        tokens=int(counts.sum()),
        sequences=len(counts),
    )


def _per_token(sums: Array, counts: Array, seed: int) -> Estimate:
    found = ratio_estimate(sums, counts, seed)
    assert found is not None, "every sequence has a scored token"
    return found


def _scored(
    tokens: Tensor, scored: Tensor | None, keep_first: bool, source: LanguageModel, target: LanguageModel
) -> Tensor:  # [b, t] bool on the CPU
    """The tokens to score; ValueError unless each sequence has one."""
    check_tokens(tokens, source, target)
    wanted = torch.ones_like(tokens, dtype=torch.bool) if scored is None else scored
    if wanted.shape != tokens.shape or wanted.dtype != torch.bool:
        raise ValueError(
            f"`scored` is {wanted.dtype} of shape {list(wanted.shape)}; it must be bool of the tokens' shape "
            f"{list(tokens.shape)}"
        )
    wanted = wanted.clone().cpu()
    wanted[:, : 2 if keep_first else 1] = False
    empty = (~wanted.any(dim=1)).nonzero().flatten()
    if len(empty):
        raise ValueError(
            f"{len(empty)} of {len(tokens)} sequences have no token to score, first row {int(empty[0])}; "
            f"leave them out, or give longer ones (these are of {tokens.shape[1]} tokens, of which the "
            f"first {2 if keep_first else 1} are never scored)"
        )
    return wanted


def _batches(tokens: Tensor, wanted: Tensor, batch_rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    if batch_rows < 1:
        raise ValueError(f"batch_rows={batch_rows}; at least 1 is needed")
    for start in range(0, len(tokens), batch_rows):
        part = slice(start, start + batch_rows)
        yield tokens[part].cpu(), wanted[part]
