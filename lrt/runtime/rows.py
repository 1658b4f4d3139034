"""What a fit sees: the rows of the whole corpus or of some of its parts, their moments, the optimum."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrt.activations import ActivationDataModule, Batch, RowFilter, Selection
from lrt.corpora import Split
from lrt.durable import write_durably
from lrt.mapping import Moments, RidgeFit, ridge_path
from lrt.runtime.fingerprints import fingerprint
from lrt.runtime.recorded import cache_read
from lrt.runtime.vectors import Vectors

WHOLE = "whole corpus"


class Rows:
    """Rows of some parts of a run's corpus, all of them where `parts` is empty."""

    def __init__(self, run: Vectors, parts: tuple[str, ...] = ()) -> None:
        self.run, self.parts = run, parts

    @property
    def name(self) -> str:
        """For people: the parts."""
        return " and ".join(self.parts) or WHOLE

    @property
    def selection(self) -> Selection:
        """What of the store the fit sees."""
        source, target = self.run.stacks
        config = self.run.config
        return Selection(source.layers, target.layers, config.filter, config.span, self.parts)

    @property
    def rows_facts(self) -> dict[str, Any]:
        """What determines the rows that a fit sees."""
        return {
            "store": self.run.store_fingerprint,
            "layers": [stack.layers for stack in self.run.stacks],
            "filter": self.run.config.filter,
            "span": self.run.config.span,
            "parts": self.parts,
        }

    @cached_property
    def data(self) -> ActivationDataModule:
        """The store as Lightning reads it, filtered."""
        batches = self.run.config.batches
        return ActivationDataModule(
            self.run.store.folder,
            self.selection,
            batch_rows=batches.rows,
            seed=self.run.config.seed,
            workers=batches.workers,
            window_rows=batches.window_rows,
        )

    # -- moments and the optimum ---------------------------------------------------------------

    @cached_property
    def moments(self) -> dict[str, Moments]:
        """Moments by name: `train/0`.. (folds of documents), `validation`, `test`, `shuffled/0`.., and of
        the test documents' single tokens `test_tokens` and, with none left out, `test_unfiltered`."""
        evaluation = self.run.config.evaluation
        name = fingerprint(
            {
                **self.rows_facts,
                "folds": evaluation.folds,
                "shuffled": evaluation.shuffled_draws,
                "seed": self.run.config.seed,
            }
        )
        folder = self.run.artifacts / "moments" / name
        with self.run.session.stage("moments"):
            return cached_moments(folder, self._gather_moments)

    def _gather_moments(self) -> dict[str, Moments]:
        folds, rows = self.run.config.evaluation.folds, self.data.rows
        draws = self.run.config.evaluation.shuffled_draws
        widths = self.run.stacks[0].total, self.run.stacks[1].total
        found: dict[str, Moments] = {}

        def add(name: str, batch: Batch, rows: Tensor | slice = slice(None)) -> None:
            found.setdefault(name, Moments(*widths)).update(batch["source"][rows], batch["target"][rows])

        single = {
            "test_tokens": self.run.config.filter,
            "test_unfiltered": RowFilter(massive=None, first_position=False),
        }
        tokens = {
            name: ActivationDataModule(self.run.store.folder, replace(self.selection, filter=kept, span=1))
            for name, kept in single.items()
        }
        wanted = rows["train"] * (1 + draws) + rows["validation"] + rows["test"]
        wanted += sum(data.rows["test"] for data in tokens.values())
        with self.run.session.progress("moments", wanted) as advance:

            def told(batches: Iterator[Batch]) -> Iterator[Batch]:
                for batch in batches:
                    yield batch
                    advance(len(batch["source"]))

            for fold in range(folds):  # one without a document is there all the same
                found[f"train/{fold}"] = Moments(*widths)
            for batch in told(self.data.iterate("train", batch_rows=8192)):
                fold_of = batch["document"] % folds
                for fold in torch.unique(fold_of).tolist():
                    add(f"train/{fold}", batch, fold_of == fold)
            held_out: tuple[Split, ...] = ("validation", "test")
            for split in held_out:
                for batch in told(self.data.iterate(split, batch_rows=8192)):
                    add(split, batch)
            for draw in range(draws):
                seed = 1000 * (self.run.config.seed + 1) + draw
                for batch in told(self.data.iterate_shuffled_pairs("train", seed, batch_rows=8192)):
                    add(f"shuffled/{draw}", batch)
            for name, data in tokens.items():
                for batch in told(data.iterate("test", batch_rows=8192)):
                    add(name, batch)
        return found

    @cached_property
    def train_moments(self) -> Moments:
        """Of all training rows."""
        return merged([m for name, m in self.moments.items() if name.startswith("train/")])

    @cached_property
    def yardstick(self) -> RidgeFit:
        """The ridge map that every fit is held against."""
        bias = self.run.config.map.bias
        return ridge_path(self.train_moments, self.moments["validation"], bias=bias)


def cached_moments(folder: Path, gather: Callable[[], dict[str, Moments]]) -> dict[str, Moments]:
    """Moments found in `folder`, or gathered and kept there."""
    names_file = folder / "names.json"
    if names_file.is_file():
        with cache_read(folder):
            names = json.loads(names_file.read_text())
            return {name: Moments.load(folder / file) for name, file in names.items()}
    found = gather()
    folder.mkdir(parents=True, exist_ok=True)
    names = {}
    for name, moments in found.items():
        names[name] = f"{name.replace('/', '-')}.safetensors"
        moments.save(folder / names[name])
    write_durably(names_file, json.dumps(names).encode())  # last: a folder with it is whole
    return found


def merged(parts: list[Moments]) -> Moments:
    """Moments of all rows of several accumulators."""
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total
