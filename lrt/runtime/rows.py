"""What a fit sees: the rows of the whole corpus or of some of its parts, their moments, the optimum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lrt.activations import ActivationDataModule, Batch, RowFilter, Selection
from lrt.corpora import SPLITS, Split
from lrt.mapping import LayerConcat, Moments, RidgeFit, ridge_path
from lrt.runtime.caches import cache_read
from lrt.runtime.storeless import ShuffledPairs, StorelessRows
from lrt.runtime.vectors import Vectors
from lrt.storage.fingerprint import fingerprint
from lrt.storage.sealed import read_sealed, write_sealed

WHOLE = "whole corpus"
AT_ONCE = 8192  # rows of a batch that goes into moments

Gather = Callable[[], dict[str, Moments]]


class Rows:
    """Rows of some parts of a run's corpus, all of them where `parts` is empty.

    stacks  The layers whose states a row holds; the map's where none are given.
    span    Tokens of a row; the config's where none is given.
    folds   Groups of training documents whose moments are kept apart; the config's where none is given.
    tokens  Single tokens, every one once, whatever `span` and the parts of the corpus ask of rows.
    held_out  Whether moments are gathered of validation and test rows too: of wide stacks each is large.

    Where no states are kept, moments of shuffled pairs are gathered beside those of rows that `has_null`.
    """

    has_null: ClassVar[bool] = False

    def __init__(
        self,
        run: Vectors,
        parts: tuple[str, ...] = (),
        stacks: tuple[LayerConcat, LayerConcat] | None = None,
        span: int | None = None,
        folds: int | None = None,
        tokens: bool = False,
        held_out: bool = True,
    ) -> None:
        self.run, self.parts, self.stacks = run, parts, stacks or run.stacks
        self.pool, self.tokens = 1 if tokens else span or run.config.pool, tokens
        self.fold_count = folds or run.config.evaluation.folds
        self.splits: tuple[Split, ...] = SPLITS if held_out else ("train",)

    @property
    def name(self) -> str:
        """For people: the parts."""
        return " and ".join(self.parts) or WHOLE

    @property
    def selection(self) -> Selection:
        """What of the store the fit sees."""
        whole = self.run.selected(self.stacks, self.pool)
        if self.tokens:
            return replace(whole, parts=self.parts, rules=())
        if not self.parts:
            return whole
        return replace(
            whole,
            parts=self.parts,
            rules=tuple(rule for rule in whole.rules if rule.part in self.parts),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What determines the rows that a fit sees, and their moments."""
        return {
            "store": self.run.store_fingerprint,
            "layers": [stack.layers for stack in self.stacks],
            "filter": self.run.config.filter,
            "pool": self.pool,
            "parts": self.parts,
            "rows": self.selection.rules,
            "products": self.run.config.products,
            **({} if self.run.keeps_states else {"pass": self.run.pass_facts}),
        }

    @cached_property
    def data(self) -> ActivationDataModule:
        """The store as Lightning reads it, filtered. Raises ConfigError where no states are kept."""
        batches = self.run.config.batches
        return ActivationDataModule(
            self.run.store.folder,
            self.selection,
            batch_rows=batches.rows,
            seed=self.run.config.seed,
            workers=batches.workers,
            window_rows=batches.window_rows,
        )

    @cached_property
    def in_order(self) -> ActivationDataModule | StorelessRows:
        """The rows from first to last, of the store or of a pass."""
        return self.data if self.run.keeps_states else self._storeless(self.selection)

    def _storeless(self, selection: Selection) -> StorelessRows:
        return StorelessRows(self.run, selection, self.run.artifacts / "passes")

    # -- moments and the optimum ---------------------------------------------------------------

    @cached_property
    def moments(self) -> dict[str, Moments]:
        """Moments by name: `train/0`.. (folds of documents), and of held-out rows that are asked for."""
        folds, kin, (_, *held_out) = self.fold_count, self.run.kin, self.splits

        def gather() -> dict[str, Moments]:
            # a fold without a document is there all the same
            found = {name: self._no_rows() for name in (*_numbered("train", folds), *held_out)}
            shuffled = self._shuffled_beside() if self._shuffles_beside else None
            with self._told(sum(self.in_order.rows[split] for split in self.splits)) as told:
                for batch in told(self.in_order.iterate("train", batch_rows=AT_ONCE)):
                    fold_of = shared_ids(batch["document"], kin) % folds
                    for fold in torch.unique(fold_of).tolist():
                        rows = fold_of == fold
                        found[f"train/{fold}"].update(batch["source"][rows], batch["target"][rows])
                    if shuffled is not None:
                        shuffled[1].add(batch["source"], batch["target"])
                for split in held_out:
                    for batch in told(self.in_order.iterate(split, batch_rows=AT_ONCE)):
                        found[split].update(batch["source"], batch["target"])
            if shuffled is None:
                return found
            shuffled[1].end()
            return found | shuffled[0]

        draws = self.run.config.evaluation.shuffled_draws
        beside = self._shuffled_facts(draws) if self._shuffles_beside else {}
        together = {"kin": fingerprint({str(one): other for one, other in kin.items()})} if kin else {}
        only = {} if held_out else {"held_out": False}
        return self._kept({"folds": folds, **together, **beside, **only}, gather)

    @property
    def _shuffles_beside(self) -> bool:
        return self.has_null and not self.run.keeps_states

    def _shuffled_beside(self) -> tuple[dict[str, Moments], ShuffledPairs]:
        """Moments of shuffled pairs by name, and what gathers them in the pass that gathers the true ones."""
        config = self.run.config
        found = {name: self._no_rows() for name in _numbered("shuffled", config.evaluation.shuffled_draws)}
        return found, ShuffledPairs([*found.values()], config.batches.window_rows, 1000 * (config.seed + 1))

    def _shuffled_facts(self, draws: int) -> dict[str, Any]:
        config = self.run.config  # the window is the permutation's
        return {"shuffled": draws, "seed": config.seed, "window_rows": config.batches.window_rows}

    @cached_property
    def shuffled(self) -> list[Moments]:
        """Of pairs whose target rows are permuted over all training rows (where no states are kept, within
        windows of them), one for each draw of the null."""
        return self.shuffled_pairs(self.run.config.evaluation.shuffled_draws)

    def shuffled_pairs(self, draws: int) -> list[Moments]:
        """The same for some draws. Raises ConfigError for other ones where no states are kept."""
        seed = self.run.config.seed
        if self._shuffles_beside and draws == self.run.config.evaluation.shuffled_draws:
            return [self.moments[name] for name in _numbered("shuffled", draws)]

        def gather() -> dict[str, Moments]:
            found = {name: self._no_rows() for name in _numbered("shuffled", draws)}
            with self._told(draws * self.data.rows["train"]) as told:
                for draw, moments in enumerate(found.values()):
                    pairs = self.data.iterate_shuffled_pairs("train", 1000 * (seed + 1) + draw, AT_ONCE)
                    for batch in told(pairs):
                        moments.update(batch["source"], batch["target"])
            return found

        found = self._kept(self._shuffled_facts(draws), gather)
        return [found[name] for name in _numbered("shuffled", draws)]

    @cached_property
    def token_moments(self) -> dict[str, Moments]:
        """Of the test documents' single tokens: `kept`, and with none left out `unfiltered`."""
        seen = {
            "kept": self.run.config.filter,
            "unfiltered": RowFilter(max_norm_ratio=None, first_position=False),
        }

        def gather() -> dict[str, Moments]:
            selections = {
                name: replace(self.selection, filter=kept, pool=1, rules=()) for name, kept in seen.items()
            }
            streams: dict[str, ActivationDataModule | StorelessRows] = {
                name: ActivationDataModule(self.run.store.folder, selection)
                if self.run.keeps_states
                else self._storeless(selection)
                for name, selection in selections.items()
            }
            found = {name: self._no_rows() for name in streams}
            with self._told(sum(data.rows["test"] for data in streams.values())) as told:
                for name, data in streams.items():
                    for batch in told(data.iterate("test", batch_rows=AT_ONCE)):
                        found[name].update(batch["source"], batch["target"])
            return found

        return self._kept({"single tokens": True}, gather)

    def _no_rows(self) -> Moments:
        source, target = self.stacks
        return Moments(source.total, target.total, products=self.run.config.products)

    def _kept(self, what: dict[str, Any], gather: Gather) -> dict[str, Moments]:
        folder = self.run.artifacts / "moments" / fingerprint({**self.facts, **what})
        with self.run.session.stage("moments"):
            return cached_moments(folder, gather)

    @contextmanager
    def _told(self, rows: int) -> Iterator[Callable[[Iterator[Batch]], Iterator[Batch]]]:
        """Yields what tells of the batches that go through it."""
        with self.run.session.progress(f"moments, {self.name}", rows) as advance:

            def told(batches: Iterator[Batch]) -> Iterator[Batch]:
                for batch in batches:
                    yield batch
                    advance(len(batch["source"]))

            yield told

    @cached_property
    def train_moments(self) -> Moments:
        """Of all training rows."""
        return merged(self.folds or [self._no_rows()])

    @property
    def folds(self) -> list[Moments]:
        """Of the training documents in groups, those that hold a document."""
        # by number: a file's entries come in another order than they were gathered in
        return [m for name in _numbered("train", self.fold_count) if (m := self.moments[name]).count]

    @cached_property
    def reference_ridge(self) -> RidgeFit:
        """The ridge map that every fit is held against."""
        bias = self.run.config.map.bias
        return ridge_path(self.train_moments, self.moments["validation"], bias=bias)


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}/{number}" for number in range(count)]


def cached_moments(folder: Path, gather: Gather) -> dict[str, Moments]:
    """Moments found in `folder`, or gathered and kept there. Raises CacheCorrupt for a damaged folder."""
    names_file = folder / "names.json"
    if names_file.is_file():
        with cache_read(folder):
            digests = read_sealed(names_file)
            return {name: Moments.load(folder / _file(name), digest) for name, digest in digests.items()}
    found = gather()
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: moments.save(folder / _file(name)) for name, moments in found.items()}
    write_sealed(names_file, digests)  # last: a folder with it is whole
    return found


def _file(name: str) -> str:
    """A plain file name: none leads out of the folder."""
    return f"{name.replace('/', '-')}.safetensors"


def merged(parts: list[Moments]) -> Moments:
    """Moments of all rows of several accumulators."""
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


def shared_ids(documents: Tensor, kin: Mapping[int, int]) -> Tensor:
    """Ids `[n]` with those of kin replaced by the one that they share: what tells nothing new must not be
    drawn, or left out, apart."""
    if not kin:
        return documents
    own, shared = torch.tensor(sorted(kin.items()), dtype=torch.int64, device=documents.device).T.contiguous()
    at = torch.searchsorted(own, documents.contiguous()).clamp(max=len(own) - 1)
    return torch.where(own[at] == documents, shared[at], documents)
