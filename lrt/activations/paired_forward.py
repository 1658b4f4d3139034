"""Paired rows straight from the pass of both models, with no store: for sums over many layers, whose
states would fill a disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrt.activations.chunks import PartRules, Selection, rows_of
from lrt.activations.errors import NonFiniteActivations
from lrt.activations.filter import RowFilter
from lrt.activations.manifest import SIDES, NonFinite, Side, dtype_name
from lrt.corpora import Blocks
from lrt.models import LanguageModel

Columns = dict[str, Tensor]


@dataclass(frozen=True)
class PairedRows:
    """The kept rows of some whole blocks, at every layer of both models; float32, on the CPU.

    `blocks` counts the blocks of the split that are done with these, from its first: where a pass that
    is to go on starts. `left_out` counts the tokens of these blocks that leave, by reason, and `non_finite`,
    by `source.LAYER` and `target.LAYER`, those whose state there is infinite or undefined; layers without one
    are not in it. Such a token is in no row.
    """

    source: Mapping[int, Tensor]  # layer: [n, d_source]
    target: Mapping[int, Tensor]  # layer: [n, d_target]
    document: Tensor  # [n] int64
    blocks: int
    non_finite: Mapping[str, int]
    left_out: Mapping[str, int]


def paired_rows(
    source: LanguageModel,
    target: LanguageModel,
    source_layers: Sequence[int],
    target_layers: Sequence[int],
    blocks: Blocks,
    *,
    filter: RowFilter,
    pool: int,
    medians: Mapping[str, float],
    batch_tokens: int,
    non_finite: NonFinite = "refuse",
    rules: PartRules | None = None,
    start: int = 0,
) -> Iterator[PairedRows]:
    """Rows of every layer from one pass of both models over a split's blocks, in their order.

    They are the rows that a store of the same blocks gives for a `Selection` of all these layers, this
    filter and this pool, where `span` divides the context (a store's chunks may cut a span in two
    otherwise). So a token that is massive at *any* of the layers leaves at all of them: every pair of
    layers is told of the same rows.

    Args:
        medians: median norms by `source.LAYER` and `target.LAYER`, as `median_norms` or a store's
            manifest has them; only a filter of massive tokens reads them.
        batch_tokens: tokens in one forward pass, rounded down to whole blocks, at least one.
        non_finite: whether a state that is infinite or undefined ends the pass, or its token is counted
            and leaves.
        rules: what is asked of the parts of the mixture; nothing if not given.
        start: blocks that are left out at the beginning. A pass that starts where a batch of another
            ended has the same batches from there on, so sums over it end with the same bits.

    Raises:
        ValueError: before any work, for layers that are missing, named twice or not the model's, a span
            or `batch_tokens` below 1, a `start` outside the split, and a median that is missing.
        NonFiniteActivations: while it runs, where a state is infinite or undefined and `non_finite`
            refuses it; names model, layer and token.
    """
    models: dict[Side, LanguageModel] = {"source": source, "target": target}
    _check(models, {"source": source_layers, "target": target_layers}, batch_tokens)
    selection = Selection(tuple(source_layers), tuple(target_layers), filter, pool)
    if not 0 <= start <= len(blocks):
        raise ValueError(f"start={start} is outside the split, which has {len(blocks)} blocks")
    if filter.max_norm_ratio is not None:
        missing = [name for side in SIDES for name in _names(selection, side) if name not in medians]
        if missing:
            raise ValueError(
                f"filter.max_norm_ratio={filter.max_norm_ratio} needs the median norm of every layer, and "
                f"{', '.join(missing)} is missing: take them from median_norms"
            )
    return _rows(models, selection, blocks, medians, batch_tokens, non_finite, rules, start)


def median_norms(
    source: LanguageModel,
    target: LanguageModel,
    source_layers: Sequence[int],
    target_layers: Sequence[int],
    blocks: Blocks,
    *,
    at_most_tokens: int,
    batch_tokens: int,
    non_finite: NonFinite = "refuse",
) -> dict[str, float]:
    """The median norm at every layer, by `source.LAYER` and `target.LAYER`, with position 0 left out.

    A store takes it over all training tokens. Here it is over the split's first `at_most_tokens`, in
    whole blocks and at least one: a pass that filters by it needs it beforehand, and a second pass over
    everything would double the cost. Where the split holds no more, both are the same number.

    Raises ValueError for a split without blocks and as `paired_rows`, NonFiniteActivations as that.
    """
    models: dict[Side, LanguageModel] = {"source": source, "target": target}
    _check(models, {"source": source_layers, "target": target_layers}, batch_tokens)
    selection = Selection(tuple(source_layers), tuple(target_layers), RowFilter(), 1)
    if at_most_tokens < 1:
        raise ValueError(f"at_most_tokens={at_most_tokens}; a median needs at least one token")
    if len(blocks) == 0:
        raise ValueError("the split has no block, so no norm has a median; raise corpus.tokens.train")
    context = blocks.tokens.shape[1]
    first = min(len(blocks), max(1, at_most_tokens // context))
    found: dict[str, list[Tensor]] = {}
    for begin, end in _batches(0, first, context, batch_tokens):
        tokens = _part(blocks.tokens, begin, end).long()
        for side in SIDES:
            _, norms, _ = _run(models, side, selection, tokens, begin, non_finite)
            for name, norm in norms.items():
                found.setdefault(name, []).append(norm.view(-1, context)[:, 1:].flatten())
    return {name: float(torch.cat(parts).median()) for name, parts in found.items()}


def _check(
    models: Mapping[Side, LanguageModel], layers: Mapping[Side, Sequence[int]], batch_tokens: int
) -> None:
    if batch_tokens < 1:
        raise ValueError(f"recording.batch_tokens is {batch_tokens}; it must be at least 1")
    for side in SIDES:
        depth, wanted = models[side].depth, layers[side]
        if not wanted or len(set(wanted)) < len(wanted):
            raise ValueError(f"atlas.{side}={list(wanted)}; name at least one block, each once")
        for layer in wanted:
            if not 0 <= layer < depth:
                raise ValueError(
                    f"atlas.{side}={layer} is out of range: {models[side].spec.name} has blocks 0 to {depth - 1}"
                )


def _rows(
    models: Mapping[Side, LanguageModel],
    selection: Selection,
    blocks: Blocks,
    medians: Mapping[str, float],
    batch_tokens: int,
    non_finite: NonFinite,
    rules: PartRules | None,
    start: int,
) -> Iterator[PairedRows]:
    context = blocks.tokens.shape[1]
    for begin, end in _batches(start, len(blocks), context, batch_tokens):
        tokens = _part(blocks.tokens, begin, end)
        facts = {
            "position": torch.arange(context, dtype=torch.int32).repeat(end - begin),
            "token": tokens.flatten(),
            "document": _part(blocks.documents, begin, end).flatten(),
            "group": _part(blocks.groups, begin, end).flatten().int(),
        }
        states: dict[Side, Columns] = {}
        norms: Columns = {}
        lost: dict[str, int] = {}
        for side in SIDES:
            states[side], found, bad = _run(models, side, selection, tokens.long(), begin, non_finite)
            norms |= found
            lost |= bad
        made = rows_of(selection, norms, medians, facts, rules=rules)
        kept: dict[Side, dict[int, Tensor]] = {
            side: {
                # each layer's tokens are let go as soon as they are rows
                layer: made.gathered(states[side].pop(f"{side}.{layer}")).float()
                for layer in _layers(selection, side)
            }
            for side in SIDES
        }
        document = made.gathered(facts["document"])
        left_out = {reason: int(mask.sum()) for reason, mask in made.leaves.items()}
        yield PairedRows(kept["source"], kept["target"], document, end, lost, left_out)


def _run(
    models: Mapping[Side, LanguageModel],
    side: Side,
    selection: Selection,
    tokens: Tensor,  # [b, context] int64
    first_block: int,
    non_finite: NonFinite,
) -> tuple[Columns, Columns, dict[str, int]]:
    """States `[b * context, d]` in the model's dtype and their norms, by name, both on the CPU; and how
    many tokens are infinite or undefined where some are: their states are zero, their norms infinite."""
    model = models[side]
    hidden = model.hidden_states(tokens.to(model.device), list(_layers(selection, side)))
    states: Columns = {}
    norms: Columns = {}
    lost: dict[str, int] = {}
    for layer in _layers(selection, side):
        name = f"{side}.{layer}"
        flat = hidden.pop(layer).flatten(0, 1)
        # over the widest dtype: bf16 norms would be off in the third digit
        norms[name] = torch.linalg.vector_norm(flat.float(), dim=-1).cpu()
        states[name] = flat.cpu()
        bad = (~norms[name].isfinite()).nonzero().flatten()
        if len(bad) == 0:
            continue
        if non_finite == "refuse":
            raise _refused(bad, model, side, layer, tokens, first_block)
        lost[name] = len(bad)
        norms[name][bad] = torch.inf
        states[name][bad] = 0
    return states, norms, lost


def _refused(
    bad: Tensor,  # [k] of the batch's tokens
    model: LanguageModel,
    side: Side,
    layer: int,
    tokens: Tensor,  # [b, context]
    first_block: int,
) -> NonFiniteActivations:
    block, position = divmod(int(bad[0]), tokens.shape[1])
    return NonFiniteActivations(
        f"the {side} model {model.spec.name} gives non-finite hidden states at layer {layer}: {len(bad)} of "
        f"{tokens.numel()} tokens of a batch, first in block {first_block + block} at position {position} "
        f"(token {int(tokens[block, position])}). It ran in {dtype_name(model.dtype)}; run it in bfloat16 or "
        f"float32 (pair.{side}.dtype), or leave such tokens out (recording.non_finite=exclude)"
    )


def _layers(selection: Selection, side: Side) -> tuple[int, ...]:
    return selection.source_layers if side == "source" else selection.target_layers


def _names(selection: Selection, side: Side) -> list[str]:
    return [f"{side}.{layer}" for layer in _layers(selection, side)]


def _batches(start: int, stop: int, context: int, batch_tokens: int) -> Iterator[tuple[int, int]]:
    """Of each forward pass the first block, and the one after its last."""
    each = max(1, batch_tokens // context)
    for begin in range(start, stop, each):
        yield begin, min(begin + each, stop)


def _part(column: Any, begin: int, end: int) -> Tensor:
    """Some blocks of a column, copied: the corpus stays as it is."""
    return torch.from_numpy(np.array(column[begin:end]))
