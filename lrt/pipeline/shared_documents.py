"""Documents of the corpus that share text with a behaviour: they are excluded from the maps' rows.

They stay in the corpus and in the store, so another suite records nothing again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lrt.corpora import SPLITS, Split, shared_documents
from lrt.errors import InvalidValue
from lrt.evaluation import Behaviour
from lrt.pipeline.corpus import CorpusText
from lrt.pipeline.monitor import Monitor
from lrt.storage.cache import JSON, Cache

VERSION = 1


@dataclass(frozen=True)
class SharedDocuments:
    """The documents that share text with the prompts or items of a suite's behaviours.

    Looked for when first needed; nothing is excluded for an empty suite.
    """

    text: CorpusText
    suite: Sequence[Behaviour]
    cache: Cache = field(repr=False)
    monitor: Monitor = field(repr=False)

    @cached_property
    def by_behaviour(self) -> dict[str, tuple[int, ...]]:
        """Document ids by behaviour; those of a near-duplicate (a question with another answer) with them."""
        texts = {behaviour.name: self._texts(behaviour) for behaviour in self.suite}
        facts = {
            "version": VERSION,
            "corpus": self.text.digest,
            "texts": {name: _digest(each) for name, each in texts.items()},
        }

        def find() -> dict[str, list[int]]:
            with self.monitor.working("looking for the suite's texts in the corpus"):
                return shared_documents(self.text.packed.texts, texts)

        shared: dict[str, list[int]] = self.cache.made_once("shared_documents", facts, find, JSON)
        return {name: self._with_duplicates(ids) for name, ids in shared.items()}

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Ids of all of them, in order."""
        return tuple(sorted({id_ for ids in self.by_behaviour.values() for id_ in ids}))

    def _texts(self, behaviour: Behaviour) -> tuple[str, ...]:
        """What a behaviour holds, also as the source reads it: so the corpus has its chats."""
        read = self.text.pair.read_by("source", behaviour)
        return (*behaviour.texts, *(() if read is behaviour else read.texts))

    def _with_duplicates(self, ids: Sequence[int]) -> tuple[int, ...]:
        groups = self.text.duplicate_groups if ids else {}
        taken = {groups.get(id_, id_) for id_ in ids}
        return tuple(sorted({*ids, *(id_ for id_, group in groups.items() if group in taken)}))

    def check(self, maps: Iterable[tuple[str, ...]]) -> None:
        """Raises InvalidValue where a split has no other documents for a map.

        maps  The parts of the corpus that each map is fitted on; empty for all.
        """
        if not self.ids:
            return
        for parts, split in itertools.product(sorted(maps), SPLITS):
            documents = self._documents(split, parts)
            if len(documents) and np.isin(documents, self.ids).all():
                names = ", ".join(name for name, ids in sorted(self.by_behaviour.items()) if ids)
                where = f"corpus.sources {', '.join(parts)}" if parts else "the corpus"
                raise InvalidValue(
                    f"all {len(documents)} {split} documents of {where} share text with the suite ({names}), "
                    "so no map can be fitted: add other text to corpus.sources, or take these behaviours out "
                    "of the suite"
                )

    def seen_by(self, excluded: Mapping[str, Any] | None, parts: Sequence[str] = ()) -> dict[str, int | None]:
        """By behaviour, how many of its documents a map was fitted on: those of the training and validation
        rows that the map did not exclude. None for a map of another corpus.

        excluded  `card` of the map's own run.
        parts     Parts of the corpus that it was fitted on; empty for all.
        """
        if excluded is None or excluded["corpus"] != self.text.digest:
            return dict.fromkeys(self.by_behaviour)
        unseen = {id_ for ids in excluded["documents"].values() for id_ in ids}
        fitted = np.concatenate([self._documents(split, parts) for split in ("train", "validation")])
        fitted_on = set(fitted.tolist()) - unseen
        return {name: len(fitted_on.intersection(ids)) for name, ids in self.by_behaviour.items()}

    def _documents(self, split: Split, parts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Ids of the documents of a split with a token in some parts, or in any."""
        packed = self.text.packed
        used = [index for index, name in enumerate(packed.groups) if name in parts] if parts else None
        return packed.splits[split].documents_in(used)

    def card(self) -> dict[str, Any]:
        """What a map's card says: the corpus, and the documents that the map has not seen, by behaviour."""
        documents = {name: list(ids) for name, ids in sorted(self.by_behaviour.items()) if ids}
        return {"corpus": self.text.digest, "documents": documents}


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(sorted(texts)).encode()).hexdigest()
