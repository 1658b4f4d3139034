"""Stage 2: both models' hidden states over the corpus, recorded in a store or computed on the fly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    OnTheFlyRows,
    PassDataModule,
    RecordingPlan,
    RecordingWorker,
    Selection,
    StoreForeign,
    median_norms,
    plan_recording,
    record,
    record_share,
    verify_once,
)
from lrt.config import Batches, ConfigError, Recording
from lrt.pipeline.corpus import CorpusText
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.pair import ModelPair
from lrt.storage.cache import JSON, Cache
from lrt.storage.fingerprint import fingerprint

MEDIAN_TOKENS = 65_536
"""Tokens whose norms the medians are of where no states are kept: a filter of many medians needs no more, and
all training tokens, which a store uses, would be a pass of their own."""


class States(ABC):
    """Both models' states at the recorded layers, row by row."""

    def __init__(
        self,
        pair: ModelPair,
        layers: LayerPair,
        text: CorpusText,
        settings: Recording,
        cache: Cache,
        monitor: Monitor,
    ) -> None:
        self.pair, self.layers, self.text = pair, layers, text
        self.settings, self.cache, self.monitor = settings, cache, monitor

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that determines the states."""
        recording = self.settings
        return fingerprint(
            {
                "models": self.pair.identities,
                "layers": [layers.layers for layers in self.layers],
                "corpus": self.text.digest,
                # the shape of the batches decides the last bits
                "batch_tokens": recording.batch_tokens,
                "rows_per_shard": recording.rows_per_shard,
                "non_finite": recording.non_finite,
                # int8: how it rounds
                **({} if recording.states == "native" else {"states": recording.states, "version": 2}),
            }
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What determines the rows of a selection, the selection apart."""
        return {"store": self.fingerprint}

    @property
    @abstractmethod
    def median_norms(self) -> Mapping[str, float]:
        """Median norms of the recorded layers, by `source.LAYER` and `target.LAYER`."""

    @abstractmethod
    def in_order(self, selection: Selection) -> ActivationDataModule | OnTheFlyRows:
        """The rows of a selection from first to last."""

    @abstractmethod
    def batches(self, selection: Selection, batches: Batches, seed: int) -> ActivationDataModule:
        """The rows of a selection from a store, in any order. Raises ConfigError where no states are kept."""

    @abstractmethod
    def record(self) -> ActivationStore | None:
        """Makes the states available; the store, where there is one."""


class RecordedStates(States):
    """States in a store, recorded when first needed."""

    @property
    def folder(self) -> Path:
        """Where the store lies."""
        return self.cache.folder / "activations" / self.fingerprint

    def record(self) -> ActivationStore:
        return self.store

    @cached_property
    def store(self) -> ActivationStore:
        """The store, opened or recorded. Raises StoreError."""
        with self.monitor.stage("record states"):
            if not (self.folder / "manifest.json").is_file():
                with self._recording(self.plan.rows) as arguments:
                    return record(self.folder, **arguments)
            store = ActivationStore.open(self.folder)
            if store.plan.identity != self._identity:
                raise StoreForeign(f"{self.folder} holds the store of other settings; {store.fix_hint}")
            if self.settings.verify:
                note = self.cache.folder / "verified" / self.fingerprint
                verify_once(store, note, lambda: self.monitor.working("checking the recorded states"))
            self._check_corpus(store.plan.corpus)
            return store

    @property
    def median_norms(self) -> Mapping[str, float]:
        return self.store.manifest.median_norms

    def in_order(self, selection: Selection) -> ActivationDataModule:
        return ActivationDataModule(self.store.folder, selection)

    def batches(self, selection: Selection, batches: Batches, seed: int) -> ActivationDataModule:
        return ActivationDataModule(
            self.store.folder,
            selection,
            batch_rows=batches.rows,
            seed=seed,
            workers=batches.workers,
            window_rows=batches.window_rows,
        )

    def record_share(self, worker: RecordingWorker) -> Path:
        """Records one worker's shards, or continues; returns the worker's folder."""
        rows = self.plan.rows_of(worker.of(self.plan.shards))
        with self.monitor.stage("record states"), self._recording(rows) as arguments:
            return record_share(self.folder, worker, **arguments)

    def merge_shares(self) -> ActivationStore:
        """The store made of all workers' shares; runs no model. Raises StoreMissing for a missing share."""
        with self._recording(self.plan.rows) as arguments:
            return record(self.folder, **arguments, missing="refuse")

    @property
    def _identity(self) -> dict[str, Any]:
        # in the store too, so that one put in another's place is noticed
        return {**self.pair.identities, "fingerprint": self.fingerprint}

    @cached_property
    def plan(self) -> RecordingPlan:
        """What is recorded, in which shards."""
        states = self.settings.states
        assert states != "none", "without states there is nothing to record"
        self._check_corpus(self.text.packed.digest)
        return plan_recording(
            self.pair.source,
            self.pair.target,
            self.layers.source.layers,
            self.layers.target.layers,
            self.text.packed,
            identity=self._identity,
            rows_per_shard=self.settings.rows_per_shard,
            batch_tokens=self.settings.batch_tokens,
            non_finite=self.settings.non_finite,
            states=states,
        )

    @contextmanager
    def _recording(self, rows: int) -> Iterator[dict[str, Any]]:
        """What `record` takes, with a progress bar over so many rows."""
        with self.monitor.progress("recording", rows) as advance:
            done = 0

            def report(so_far: int, _: int) -> None:
                nonlocal done
                advance(so_far - done)
                done = so_far

            yield {
                "source": self.pair.source,
                "target": self.pair.target,
                "plan": self.plan,
                "corpus": self.text.packed,
                "progress": report,
            }

    def _check_corpus(self, digest: str) -> None:
        if digest != self.text.digest:
            raise StoreForeign(
                f"{self.folder} is named by a corpus of other text than there is now: delete "
                f"{self.cache.folder / 'corpora'} and run the command again"
            )


class StatesOnTheFly(States):
    """No store: every reading is another pass of both models."""

    @property
    def facts(self) -> dict[str, Any]:
        return {"store": self.fingerprint, "pass": {"median_tokens": MEDIAN_TOKENS}}

    def record(self) -> None:
        return None

    @cached_property
    def median_norms(self) -> Mapping[str, float]:
        return pass_medians(self.pair, self.layers, self.text, self.settings, self.cache, self.monitor)

    def in_order(self, selection: Selection) -> OnTheFlyRows:
        def counts_file(selection: Selection) -> Path:
            facts = {**self.facts, "selection": selection.to_data()}
            return self.cache.path("passes", facts, ".json")

        return OnTheFlyRows(
            self.pair.source,
            self.pair.target,
            self.text.packed,
            selection,
            self.median_norms,
            batch_tokens=self.settings.batch_tokens,
            non_finite=self.settings.non_finite,
            counts_file=counts_file,
        )

    def batches(self, selection: Selection, batches: Batches, seed: int) -> ActivationDataModule:
        del selection, batches, seed
        raise ConfigError(
            "recording.states=none keeps no states, and this reads them in another order or layout: set "
            "recording.states=native"
        )

    def for_fit(self, selection: Selection, batches: Batches, seed: int) -> PassDataModule:
        """The rows of a selection as a gradient fit reads them: a pass an epoch."""
        return PassDataModule(
            self.in_order(selection), batch_rows=batches.rows, window_rows=batches.window_rows, seed=seed
        )


def plan_states(
    pair: ModelPair, layers: LayerPair, text: CorpusText, settings: Recording, cache: Cache, monitor: Monitor
) -> RecordedStates | StatesOnTheFly:
    """The states of the recorded layers; nothing is computed before it is needed."""
    kind = RecordedStates if settings.keeps_states else StatesOnTheFly
    return kind(pair, layers, text, settings, cache, monitor)


def pass_medians(
    pair: ModelPair, layers: LayerPair, text: CorpusText, settings: Recording, cache: Cache, monitor: Monitor
) -> dict[str, float]:
    """Median norms of the first training tokens, by `source.LAYER` and `target.LAYER`; cached."""

    def make() -> dict[str, float]:
        with monitor.working("median norms"):
            return median_norms(
                pair.source,
                pair.target,
                layers.source.layers,
                layers.target.layers,
                text.packed,
                at_most_tokens=MEDIAN_TOKENS,
                batch_tokens=settings.batch_tokens,
                non_finite=settings.non_finite,
            )

    facts = {
        "models": pair.identities,
        "layers": [each.layers for each in layers],
        "corpus": text.digest,
        "tokens": MEDIAN_TOKENS,
        "batch_tokens": settings.batch_tokens,
        "non_finite": settings.non_finite,
    }
    norms: dict[str, float] = cache.made_once("passes", facts, make, JSON, "median-norms")
    return norms
