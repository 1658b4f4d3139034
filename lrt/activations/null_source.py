"""Pairs of another source model's states with the recorded target states, without running the target."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lrt.activations.chunks import Selection, facts_names, rows_of, rules_of
from lrt.activations.store import ActivationStore
from lrt.activations.windows import Batch
from lrt.corpora.aligned_packing import PADDING
from lrt.corpora.splits import Split
from lrt.models.stacked import StateModel


def pairs_with_other_source(
    store: ActivationStore,
    split: Split,
    source: StateModel,
    selection: Selection,
    batch_tokens: int = 8192,
) -> Iterator[Batch]:
    """Token or pooled rows of `source` over the store's own tokens, beside the recorded target rows.

    Batches are `{"source": [n, d], "target": [n, d_target], "document": [n]}` in float32. Massive tokens are
    recognised by the target's norms alone, so the rows are the same for every source. (An untrained control
    has no massive activations of its own.)
    """
    context = store.plan.context
    columns = selection.columns(store, "target")
    norms = [f"norm.{column}" for column in columns]
    medians = {f"norm.{column}": store.manifest.median_norms[column] for column in columns}
    rules = rules_of(store, selection)
    layers = list(selection.source_layers)
    each = max(1, batch_tokens // context) * context  # whole sequences
    facts, token = facts_names(store.plan.aligned), store.plan.token_column("source")
    for tokens in store.stream(split, [*facts, *norms, *columns], each):
        rows = rows_of(selection, {name: tokens[name] for name in norms}, medians, tokens, rules=rules)
        if not rows.count:
            continue
        # of some parts or documents, few sequences are used
        used = (rows.sides.get("source", rows.row) >= 0).view(-1, context).any(dim=1)
        ids = tokens[token].view(-1, context, *tokens[token].shape[1:])[used].long()
        ids = ids.where(ids != PADDING, 0)
        hidden = source.hidden_states(ids, layers)
        states = torch.cat([hidden[layer].to("cpu", torch.float32) for layer in layers], dim=2)
        every = states.new_zeros(len(used), *states.shape[1:])
        every[used] = states
        yield {
            "source": rows.gathered(every.flatten(0, 1), "source"),
            "target": rows.gathered(torch.cat([tokens[c] for c in columns], dim=1).float(), "target"),
            "document": rows.gathered(tokens["document"]),
        }
