"""What a fit sees: rows of the corpus or of some of its parts, their moments, the reference ridge map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lrt.activations import ActivationDataModule, Batch, NoRows, OnTheFlyRows, PartRule, RowFilter, Selection
from lrt.config import Batches
from lrt.corpora import SPLITS, Split
from lrt.mapping import (
    GroupedMoments,
    Moments,
    RidgeFit,
    SharedRidge,
    ShuffledPairs,
    layer_concat_bytes,
    merge_all,
    solving_bytes,
)
from lrt.models.hardware import with_float64, with_room
from lrt.models.sides import SIDES
from lrt.pipeline.corpus import CorpusText
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.shared_documents import SharedDocuments
from lrt.pipeline.states import States, StatesOnTheFly
from lrt.pipeline.stored_moments import MOMENTS, OnDevice, in_memory
from lrt.storage.cache import JSON, Cache
from lrt.storage.fingerprint import fingerprint

WHOLE_CORPUS = "whole corpus"
MOMENTS_BATCH = 8192  # rows of a batch that goes into moments

Gather = Callable[[Selection], dict[str, Moments]]


@dataclass(frozen=True)
class RowSettings:
    """What a row is and how moments are made of rows.

    filter    Tokens that leave the fit.
    pool      Tokens whose mean is a row.
    rules     What rows are in some parts of the corpus instead.
    folds     Groups of training documents whose moments are kept apart.
    products  Precision of the moments' products.
    shuffled_draws  Draws of the null of shuffled pairs.
    bias      Whether maps have one.
    """

    filter: RowFilter
    pool: int
    rules: tuple[PartRule, ...]
    folds: int
    products: Any
    shuffled_draws: int
    bias: bool
    batches: Batches
    seed: int


@dataclass(frozen=True)
class RowSource:
    """Makes the `FitData` of any recorded layers and parts of the corpus.

    excluded  Documents that no map sees.
    """

    states: States
    text: CorpusText
    excluded: SharedDocuments
    settings: RowSettings
    cache: Cache
    monitor: Monitor

    def of(
        self,
        layers: LayerPair,
        parts: tuple[str, ...] = (),
        *,
        tokens: bool = False,
        every_document: bool = False,
        folds: int | None = None,
        held_out: bool = True,
        shuffled: bool = False,
    ) -> FitData:
        """Rows of some parts of the corpus, of all where `parts` is empty.

        tokens    Single tokens, each once, whatever `pool` and the parts' rules say.
        every_document  Excluded documents too, for what is of the corpus and not of a suite, such as
                  autoencoders: no behaviour's vector is transferred by it.
        folds     Groups of documents; those of the settings where none are given.
        held_out  Whether moments of validation and test rows are gathered too: of many layers each is large.
        shuffled  Gather the moments of shuffled pairs in the same pass, where every reading is a pass.
        """
        settings = self.settings
        if tokens:
            settings = replace(settings, pool=1, rules=())
        if parts:
            settings = replace(settings, rules=tuple(r for r in settings.rules if r.part in parts))
        if folds is not None:
            settings = replace(settings, folds=folds)
        excluded = () if every_document else self.excluded.ids
        return FitData(replace(self, settings=settings), layers, parts, excluded, held_out, shuffled)

    def tokens_unfiltered(self, data: FitData) -> dict[str, Selection]:
        """Single test tokens of the same layers and parts: filtered (`kept`), and all (`unfiltered`)."""
        everything = RowFilter(max_norm_ratio=None, first_position=False)
        filters = {"kept": self.settings.filter, "unfiltered": everything}
        every = replace(data.selection, pool=1, rules=(), documents=None)
        return {name: replace(every, filter=filter_) for name, filter_ in filters.items()}


class FitData:
    """Rows of some layers and parts of the corpus.

    Moments of the rows of every document are made once. Those of documents that are excluded are made beside
    them, and taken away: another suite costs these rows alone, and no pass over the rest.

    excluded  Ids of documents whose rows are not among them.

    The moments are summed and solved on the target model's device, as far as they fit there. In between
    they lie in the CPU's memory.
    """

    def __init__(
        self,
        source: RowSource,
        layers: LayerPair,
        parts: tuple[str, ...],
        excluded: tuple[int, ...],
        held_out: bool,
        shuffled: bool,
    ) -> None:
        self._source, self.layers, self.parts, self.excluded = source, layers, parts, excluded
        self.states, self.settings, self.monitor = source.states, source.settings, source.monitor
        self.splits: tuple[Split, ...] = SPLITS if held_out else ("train",)
        self._shuffles_beside = shuffled and not self.states.settings.keeps_states

    @property
    def shared(self) -> SharedDocuments:
        """The documents that share text with the suite."""
        return self._source.excluded

    @property
    def name(self) -> str:
        """The parts, for people."""
        return " and ".join(self.parts) or WHOLE_CORPUS

    @property
    def selection(self) -> Selection:
        """Layers, tokens and rows that the fit sees."""
        every = self._of_every_document
        return every.of_documents(self.excluded, excluded=True) if self.excluded else every

    @property
    def _of_every_document(self) -> Selection:
        source, target = self.layers
        settings = self.settings
        return Selection(
            source.layers, target.layers, settings.filter, settings.pool, self.parts, settings.rules
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What determines the rows and their moments."""
        return {**self._facts_of_every_document, **self._excluded_facts}

    @property
    def _excluded_facts(self) -> dict[str, Any]:
        return {"excluded": self.excluded} if self.excluded else {}

    @property
    def _facts_of_every_document(self) -> dict[str, Any]:
        return {
            **self.states.facts,
            "layers": [layers.layers for layers in self.layers],
            "filter": self.settings.filter,
            "pool": self.settings.pool,
            "parts": self.parts,
            "rows": self.settings.rules,
            "products": self.settings.products,
        }

    @cached_property
    def data(self) -> ActivationDataModule:
        """The rows in a store. Raises ConfigError where no states are kept."""
        return self._stored(self.selection)

    def _stored(self, selection: Selection) -> ActivationDataModule:
        return self.states.batches(selection, self.settings.batches, self.settings.seed)

    @cached_property
    def for_fit(self) -> LightningDataModule:
        """The rows as a gradient fit reads them."""
        if isinstance(self.states, StatesOnTheFly):
            return self.states.for_fit(self.selection, self.settings.batches, self.settings.seed)
        return self.data

    @cached_property
    def in_order(self) -> ActivationDataModule | OnTheFlyRows:
        """The rows from first to last."""
        return self.data if self.states.settings.keeps_states else self.states.in_order(self.selection)

    # -- moments -------------------------------------------------------------------------------

    @cached_property
    def device(self) -> torch.device:
        """Where rows are multiplied."""
        return with_float64(self.states.pair.target.device)

    @cached_property
    def solving_device(self) -> torch.device:
        """Where moments are solved: a forecast holds all folds, and a part of each."""
        copies = 2 * self.settings.folds + 4
        needed = layer_concat_bytes(*self.layers, copies) + solving_bytes(*self.layers)
        return with_room(self.device, needed, f"solving the moments of the {self.name}")

    @cached_property
    def moments(self) -> Mapping[str, Moments]:
        """Moments by name: `train/0`.. (folds of documents), and of the held-out splits."""
        folds, groups, (_, *held_out) = self.settings.folds, self._source.text.duplicate_groups, self.splits

        def gather(selection: Selection) -> dict[str, Moments]:
            stream = self.states.in_order(selection)
            names = _numbered("train", folds)  # a fold without a document is there all the same
            draws = [] if selection.names_documents else _numbered("shuffled", self._draws_beside)
            window = self.settings.batches.window_rows if draws else 0
            moments = self._empty([*names, *draws, *held_out], window)
            seed = 1000 * (self.settings.seed + 1)
            by_fold = GroupedMoments([moments[name] for name in names])
            shuffled = ShuffledPairs([moments[name] for name in draws], window, seed) if draws else None
            with self._progress(sum(stream.rows[split] for split in self.splits)) as counted:
                for batch in counted(self._read(stream, "train")):
                    fold_of = shared_ids(batch["document"], groups) % folds
                    by_fold.add(batch["source"], batch["target"], fold_of)
                    if shuffled:
                        shuffled.add(batch["source"], batch["target"])
                by_fold.flush()
                if shuffled:
                    shuffled.flush()
                for split in held_out:
                    self._add_all(moments[split], counted(self._read(stream, split)))
            return moments

        # drawn in the same pass
        beside = self._shuffled_facts(self._draws_beside) if self._draws_beside else {}
        together = {"groups": fingerprint({str(k): v for k, v in groups.items()})} if groups else {}
        facts = {"folds": folds, "splits": self.splits, **together}
        return self._without_excluded(facts, beside, gather)

    @property
    def _draws_beside(self) -> int:
        return self.settings.shuffled_draws if self._shuffles_beside else 0

    @property
    def folds(self) -> list[Moments]:
        """Training moments of the groups of documents that have any."""
        # by number: a file's entries come in another order than they were gathered in
        names = _numbered("train", self.settings.folds)
        return [moments for name in names if (moments := self.moments[name]).count]

    @cached_property
    def train_moments(self) -> Moments:
        """Of all training rows."""
        return merge_all(self.folds or [self.no_rows()])

    @cached_property
    def ridge(self) -> SharedRidge:
        """The decomposition of the training rows, which gives ridge maps of all weights."""
        return SharedRidge(self.train_moments, self.moments["validation"], bias=self.settings.bias)

    @cached_property
    def reference_ridge(self) -> RidgeFit:
        """The ridge map that every fit is compared with."""
        return self.ridge.fit(self.train_moments, self.moments["validation"])

    @cached_property
    def shuffled(self) -> list[Moments]:
        """Of pairs whose target rows are permuted over all training rows, one for each draw of the null.

        Where no states are kept, rows are permuted within windows. The rows are of every document, excluded
        ones too: of what belongs to what, such pairs say nothing.
        """
        return self.shuffled_pairs(self.settings.shuffled_draws)

    def shuffled_pairs(self, draws: int) -> list[Moments]:
        """The same for so many draws. Raises ConfigError for another number where no states are kept."""
        names = _numbered("shuffled", draws)
        if draws == self._draws_beside:
            return [self.moments[name] for name in names]

        def gather(selection: Selection) -> dict[str, Moments]:
            moments, data = self._empty(names), self._stored(selection)
            with self._progress(draws * data.rows["train"]) as counted:
                for draw, each in enumerate(moments.values()):
                    seed = 1000 * (self.settings.seed + 1) + draw
                    pairs = data.iterate_shuffled_pairs("train", seed, MOMENTS_BATCH)
                    self._add_all(each, counted(pairs))
            return moments

        cached = self._of_all(self._shuffled_facts(draws), gather)
        return [cached[name] for name in names]

    def _shuffled_facts(self, draws: int) -> dict[str, Any]:
        settings = self.settings  # the window is the permutation's
        return {"shuffled": draws, "seed": settings.seed, "window_rows": settings.batches.window_rows}

    @cached_property
    def token_moments(self) -> Mapping[str, Moments]:
        """Of single test tokens of every document: filtered (`kept`), and all (`unfiltered`)."""

        def gather(_: Selection) -> dict[str, Moments]:
            selections = self._source.tokens_unfiltered(self)
            streams = {name: self.states.in_order(selection) for name, selection in selections.items()}
            moments = self._empty([*streams])
            with self._progress(sum(stream.rows["test"] for stream in streams.values())) as counted:
                for name, stream in streams.items():
                    self._add_all(moments[name], counted(self._read(stream, "test")))
            return moments

        return self._of_all({"single tokens": True}, gather)

    def gathered(
        self,
        split: Split,
        facts: Mapping[str, Any],
        batches: Callable[[Selection], Iterator[Batch]],
        what: str,
        *,
        every_document: bool = False,
    ) -> Moments:
        """Moments of other pairs of the same rows of a split, by what determines them beside the rows.

        batches  Gives the split's pairs of a selection.
        every_document  Those of excluded documents too.
        """

        def gather(selection: Selection) -> dict[str, Moments]:
            moments = self._empty([split])
            with self._progress(self._stored(selection).rows[split], what) as counted:
                self._add_all(moments[split], counted(batches(selection)))
            return moments

        facts = {**facts, "split": split}
        if every_document:
            return self._of_all(facts, gather)[split]
        return self._without_excluded(facts, {}, gather)[split]

    def figures_of_all(
        self, facts: Mapping[str, Any], make: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        """Figures of the rows of every document, by what determines them beside the rows; cached."""
        return self._source.cache.made_once("figures", {**self._facts_of_every_document, **facts}, make, JSON)

    def by_part(self) -> Iterator[tuple[str, Moments]]:
        """Moments of the same training rows by part of the corpus, of parts that have any; one at a time.

        None where there are no two parts, and where no states are kept: each is a pass over all text then.
        """
        parts = self.parts or self._source.text.parts
        if len(parts) > 1 and self.states.settings.keeps_states:
            for part in parts:
                with suppress(NoRows):
                    if (moments := self.of_part(part).train_moments).count:
                        yield part, moments

    def of_part(self, part: str) -> FitData:
        """The training rows of one part of the corpus alone."""
        return self._source.of(self.layers, (part,), folds=1, held_out=False)

    def no_rows(self) -> Moments:
        """Moments of the right shape without a row."""
        return self._empty(["train"])["train"]

    def _empty(self, names: Sequence[str], window: int = 0) -> dict[str, Moments]:
        """Moments without a row by name, on the device where they are summed.

        window  Rows that are held there beside them.
        """
        source, target = self.layers
        rows = 4 * (source.total + target.total) * (4 * MOMENTS_BATCH + 3 * window)
        needed = layer_concat_bytes(source, target, len(names) + 1) + rows
        device = with_room(self.device, needed, f"{len(names)} sums of moments of the {self.name}")
        return {
            name: Moments(source.total, target.total, products=self.settings.products, device=device)
            for name in names
        }

    def _read(self, rows: ActivationDataModule | OnTheFlyRows, split: Split) -> Iterator[Batch]:
        return rows.iterate(split, MOMENTS_BATCH, self.device)

    @staticmethod
    def _add_all(moments: Moments, batches: Iterator[Batch]) -> None:
        every = GroupedMoments([moments])  # which adds small batches together
        for batch in batches:
            every.add(batch["source"], batch["target"], torch.zeros_like(batch["document"]))
        every.flush()

    def _of_all(self, facts: Mapping[str, Any], gather: Gather) -> Mapping[str, Moments]:
        """Moments of the rows of every document."""
        return OnDevice(in_memory(self._cached(facts, gather, self._of_every_document)), self.solving_device)

    def _without_excluded(
        self, facts: Mapping[str, Any], facts_of_all: Mapping[str, Any], gather: Gather
    ) -> Mapping[str, Moments]:
        """Moments of the rows that a fit sees: those of every document, less those of excluded ones.

        facts_of_all  What determines further moments, which are of every document.
        """
        every = self._cached({**facts, **facts_of_all}, gather, self._of_every_document)
        if not self.excluded:
            return OnDevice(in_memory(every), self.solving_device)
        some = self._of_every_document.of_documents(self.excluded, excluded=False)
        if self.states.settings.keeps_states:  # a few rows are read again sooner than their sums
            with self.monitor.stage("moments"):
                excluded: Mapping[str, Moments] = gather(some)
        else:  # another pass over the corpus
            excluded = self._cached({**facts, "documents": self.excluded}, gather, some)
        return OnDevice(in_memory(every, less=excluded), self.solving_device)

    def _cached(
        self, facts: Mapping[str, Any], gather: Gather, selection: Selection
    ) -> Mapping[str, Moments]:
        facts = {**self._facts_of_every_document, **facts}
        with self.monitor.stage("moments"):
            return self._source.cache.made_once("moments", facts, lambda: gather(selection), MOMENTS)

    @contextmanager
    def _progress(self, rows: int, what: str = "") -> Iterator[Callable[[Iterator[Batch]], Iterator[Batch]]]:
        """Yields a function through which batches pass: it advances a progress bar and moves their rows to
        the device where they are multiplied."""
        where = "" if self.device.type == "cpu" else f", on {self.device}"
        with self.monitor.progress(f"{what or f'moments, {self.name}'}{where}", rows) as advance:

            def counted(batches: Iterator[Batch]) -> Iterator[Batch]:
                for batch in batches:
                    rows: Batch = {side: batch[side].to(self.device) for side in SIDES}
                    yield {**batch, **rows}
                    advance(len(batch["document"]))

            yield counted


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}/{number}" for number in range(count)]


def shared_ids(documents: Tensor, groups: Mapping[int, int]) -> Tensor:
    """Document ids `[n]` with those of near-duplicates replaced by the id that they share.

    Near-duplicates must be drawn, or excluded, together.
    """
    if not groups:
        return documents
    pairs = torch.tensor(sorted(groups.items()), dtype=torch.int64, device=documents.device)
    own, shared = pairs.T.contiguous()
    at = torch.searchsorted(own, documents.contiguous()).clamp(max=len(own) - 1)
    return torch.where(own[at] == documents, shared[at], documents)
