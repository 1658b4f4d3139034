"""A recorded store with another model in the source's place, without running the target again."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lrt.activations.chunks import FACTS, Selection, rows_of, rules_of
from lrt.activations.store import ActivationStore
from lrt.activations.stream import Batch
from lrt.corpora.splits import Split
from lrt.models import LanguageModel


def pairs_with_other_source(
    store: ActivationStore,
    split: Split,
    source: LanguageModel,
    selection: Selection,
    batch_tokens: int = 8192,
) -> Iterator[Batch]:
    """Rows of `source` at the selection's layers over the store's own tokens, beside the recorded
    target rows.

    Batches `{"source": [n, d], "target": [n, d_target], "document": [n]}` in float32. The filter's
    massive rows are told by the target's norms alone, so that the rows are the same whatever the
    source; an untrained control has no massive activations of its own.
    """
    context = store.plan.context
    columns = selection.columns(store, "target")
    norms = [f"norm.{column}" for column in columns]
    medians = {f"norm.{column}": store.manifest.median_norms[column] for column in columns}
    rules = rules_of(store, selection)
    at_once = max(1, batch_tokens // context) * context  # whole blocks
    for tokens in store.stream(split, [*FACTS, *norms, *columns], at_once):
        blocks = tokens["token"].view(-1, context).long()
        layers = list(selection.source_layers)
        hidden = source.hidden_states(blocks, layers)
        made = rows_of(selection, {name: tokens[name] for name in norms}, medians, tokens, rules=rules)
        if not made.count:
            continue
        states = [hidden[layer].flatten(0, 1).to("cpu", torch.float32) for layer in layers]
        yield {
            "source": made.gathered(torch.cat(states, dim=1)),
            "target": made.gathered(torch.cat([tokens[c] for c in columns], dim=1).float()),
            "document": made.gathered(tokens["document"]),
        }
