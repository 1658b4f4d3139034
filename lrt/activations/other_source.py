"""A recorded store with another model in the source's place, without running the target again."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lrt.activations.filter import RowFilter
from lrt.activations.store import ActivationStore
from lrt.activations.stream import Batch
from lrt.corpora.splits import Split
from lrt.models import LanguageModel


def pairs_with_other_source(
    store: ActivationStore,
    split: Split,
    source: LanguageModel,
    source_layer: int,
    target_layer: int,
    filter: RowFilter,
    batch_tokens: int = 8192,
) -> Iterator[Batch]:
    """Rows of `source` at its layer over the store's own tokens, beside the recorded target rows.

    Batches `{"source": [n, d], "target": [n, d_target], "document": [n]}` in float32. The filter's
    massive rows are told by the target's norms alone, so that the rows are the same whatever the
    source; an untrained control has no massive activations of its own.
    """
    context = store.plan.context
    columns = ("token", "position", "document", f"norm.target.{target_layer}")
    target_column = store.column("target", target_layer)
    medians = {columns[3]: store.median_norm("target", target_layer)}
    rows_at_once = max(1, batch_tokens // context) * context  # whole blocks
    for rows in store.stream(split, [*columns, target_column], rows_at_once):
        tokens = rows["token"].view(-1, context).long()
        hidden = source.hidden_states(tokens, [source_layer])[source_layer]
        keep = filter.keep({columns[3]: rows[columns[3]]}, medians, rows["position"], rows["token"])
        yield {
            "source": hidden.flatten(0, 1).to("cpu", torch.float32)[keep],
            "target": rows[target_column].float()[keep],
            "document": rows["document"][keep],
        }
