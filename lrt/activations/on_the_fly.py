"""Token or pooled rows straight from the models, for runs that record no store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lrt.activations.chunks import Selection
from lrt.activations.datamodule import NoRows
from lrt.activations.errors import StoreCorrupt
from lrt.activations.paired_forward import paired_rows
from lrt.activations.plan import NonFinite
from lrt.activations.windows import Batch
from lrt.corpora import SPLITS, PackedCorpus, Split
from lrt.models.hardware import CPU
from lrt.models.stacked import StateModel
from lrt.storage.sealed import read_sealed, write_sealed


class OnTheFlyRows:
    """The rows of a selection, in the order of a store's stream; every iteration runs both models again.

    Numbers of rows and of excluded tokens are known after a split was iterated once. They are kept in
    files, so that later runs know them too. Those of a selection that excludes documents are known as well
    once the rows of all documents were, and of these documents alone.

    Args:
        medians: median norms of the selection's layers, by `source.LAYER` and `target.LAYER`.
        batch_tokens: tokens in one forward pass, rounded down to whole sequences, at least one.
        non_finite: `refuse` a state that is infinite or NaN, or `exclude` its token.
        counts_file: gives the JSON file for the counts of a selection. Its name must identify models, corpus
            and selection.
    """

    def __init__(
        self,
        source: StateModel,
        target: StateModel,
        corpus: PackedCorpus,
        selection: Selection,
        medians: Mapping[str, float],
        *,
        batch_tokens: int,
        non_finite: NonFinite,
        counts_file: Callable[[Selection], Path],
    ) -> None:
        self._source, self._target = source, target
        self._corpus, self._selection, self._medians = corpus, selection, medians
        self._batch_tokens = batch_tokens
        self._non_finite: NonFinite = non_finite
        self._counts_of = counts_file
        self._counts_file = counts_file(selection)

    @property
    def rows(self) -> dict[Split, int]:
        """Number of rows by split; for a split that was never iterated, its tokens.

        Raises StoreCorrupt for a damaged counts file.
        """
        counts = self._counts()
        return {
            split: counts[split]["rows"] if split in counts else self._corpus.rows(split) for split in SPLITS
        }

    def counted(self, split: Split) -> int:
        """Number of rows of a split that was iterated before.

        Raises StoreCorrupt where it was not, or for a damaged counts file.
        """
        counts = self._counts()
        if split not in counts:
            raise self._uncounted(split)
        return int(counts[split]["rows"])

    @property
    def rows_excluded(self) -> dict[Split, dict[str, int]]:
        """Excluded tokens by split and reason; empty for validation or test if never iterated.

        Raises StoreCorrupt for a damaged counts file, or one without the training split.
        """
        counts = self._counts()
        if "train" not in counts:
            raise self._uncounted("train")
        return {split: counts.get(split, {}).get("excluded", {}) for split in SPLITS}

    def _uncounted(self, split: Split) -> StoreCorrupt:
        return StoreCorrupt(
            f"{self._counts_file} has no counts of the {split} split: it was deleted after the split was "
            "read. Delete what was computed from these rows too (the cached moments), and run the command "
            "again"
        )

    def _counts(self) -> dict[str, Any]:
        own, selection = _read_counts(self._counts_file), self._selection
        documents = selection.documents
        if documents is None or not documents.excluded:
            return own
        every, some = (
            _read_counts(self._counts_of(other))
            for other in (
                replace(selection, documents=None),
                selection.of_documents(documents.ids, excluded=False),
            )
        )
        left = {
            split: {
                "rows": every[split]["rows"] - some[split]["rows"],
                "excluded": {
                    reason: count - some[split]["excluded"].get(reason, 0)
                    for reason, count in every[split]["excluded"].items()
                },
            }
            for split in SPLITS
            if split in every and split in some
        }
        return left | own  # a split may have been iterated by itself

    def iterate(
        self,
        split: Split,
        batch_rows: int | None = None,  # noqa: ARG002
        device: torch.device = CPU,
    ) -> Iterator[Batch]:
        """Batches of `source` and `target`, float32 [b, d] on `device`, and `document`, int64 [b] on the CPU.

        One batch is the rows of one forward pass, whatever `batch_rows` is. (A store's stream cuts its
        batches to that size.)

        Raises NoRows for a training split of which all tokens are excluded, and as `paired_rows`.
        """
        _read_counts(self._counts_file)  # a damaged one is reported before the pass, not after it
        selection = self._selection
        rows, excluded = 0, Counter[str]()
        for part in paired_rows(
            self._source,
            self._target,
            selection,
            self._corpus,
            split,
            medians=self._medians,
            batch_tokens=self._batch_tokens,
            non_finite=self._non_finite,
            device=device,
        ):
            excluded.update(part.excluded)
            if len(part.document) == 0:
                continue
            rows += len(part.document)
            yield {
                "source": torch.cat([part.source[layer] for layer in selection.source_layers], dim=1),
                "target": torch.cat([part.target[layer] for layer in selection.target_layers], dim=1),
                "document": part.document,
            }
        if split == "train" and rows == 0 and not selection.names_documents:
            raise NoRows(
                "the filter excludes every training token; loosen filter.max_norm_ratio or "
                "filter.token_ids, or add text"
            )
        self._counts_file.parent.mkdir(parents=True, exist_ok=True)
        counts = {**_read_counts(self._counts_file), split: {"rows": rows, "excluded": dict(excluded)}}
        write_sealed(self._counts_file, counts)


def _read_counts(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return read_sealed(file)
    except (OSError, ValueError) as error:
        raise StoreCorrupt(f"{file} cannot be read ({error}); delete it and run the command again") from error
