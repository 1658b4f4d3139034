"""Which layers and which rank: every recorded pair, all source layers together, and every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from lrt.mapping import (
    AffineMap,
    Moments,
    atlas,
    many_to_many,
    many_to_one,
    reduced_rank_path,
    solving_bytes,
    stack_bytes,
)
from lrt.runtime.analyses.analysis import Analysis
from lrt.runtime.rows import Rows
from lrt.steering import prompts_digest


class OfAllLayers(Analysis):
    """Made of the moments of all recorded layers side by side."""

    @property
    def memory(self) -> int:
        """Of three splits, and of the largest solve."""
        stacks = self.run.recorded_stacks
        return stack_bytes(*stacks, 3) + solving_bytes(*stacks)

    def rows(self) -> Rows:
        """The whole corpus's rows; not held, since their moments are the largest thing of a run."""
        return Rows(self.run, (), self.run.recorded_stacks, folds=1)

    def splits(self) -> tuple[Moments, Moments, Moments]:
        """Moments of the training, validation and test rows."""
        rows = self.rows()
        return rows.train_moments, rows.moments["validation"], rows.moments["test"]

    def facts(self) -> Mapping[str, Any]:
        """The rows, and whether maps have a bias."""
        return {"rows": self.rows().facts, "bias": self.run.config.map.bias}


class Atlas(OfAllLayers):
    """Every recorded source layer against every recorded target layer."""

    name = "atlas"
    version = 2

    @property
    def asked(self) -> bool:
        return self.settings.atlas

    @property
    def memory(self) -> int:
        """Those, and of the test documents' single tokens, kept and all."""
        return super().memory + stack_bytes(*self.run.recorded_stacks, 2)

    def facts(self) -> Mapping[str, Any]:
        digests = {
            name: prompts_digest(behaviour.positives, behaviour.negatives)
            for name, behaviour in self.run.contrasts.items()
        }
        return {**super().facts(), "vectors": digests}

    def make(self) -> list[dict[str, Any]]:
        source, target = self.run.recorded_stacks
        splits, vectors = self.splits(), self.run.recorded_states
        tokens = self.rows().token_moments
        with (
            self.run.session.stage("atlas"),
            self.run.session.progress("atlas", len(source.layers) * len(target.layers)) as advance,
        ):
            cells = atlas(
                *splits,
                source,
                target,
                {name: (states.source_vector, states.target_vector) for name, states in vectors.items()},
                bias=self.run.config.map.bias,
                beside={"tokens": tokens["kept"], "unfiltered": tokens["unfiltered"]},
                progress=lambda _done, _all: advance(1),
            )
        return [asdict(cell) for cell in cells]


class ManyToOne(OfAllLayers):
    """Every recorded source layer, alone and together, to each recorded target layer (appendix A)."""

    name = "many_to_one"

    @property
    def asked(self) -> bool:
        return self.settings.many_to_one and len(self.run.recorded_stacks[0].layers) > 1

    def make(self) -> list[dict[str, Any]]:
        splits = self.splits()
        with self.run.session.stage("many to one"):
            found = many_to_one(*splits, *self.run.recorded_stacks, bias=self.run.config.map.bias)
        return [asdict(each) for each in found]


class ManyToMany(OfAllLayers):
    """All recorded source layers to all recorded target layers by one map (appendix A)."""

    name = "many_to_many"

    @property
    def asked(self) -> bool:
        several = all(len(stack.layers) > 1 for stack in self.run.recorded_stacks)
        return self.settings.many_to_one and several

    def make(self) -> dict[str, Any]:
        splits = self.splits()
        with self.run.session.stage("many to many"):
            found = many_to_many(*splits, *self.run.recorded_stacks, bias=self.run.config.map.bias)
        return {"fvu": found.fvu, "ridge_weight": found.weight, "fvu_layer": dict(found.fvu_layer)}


class RankCurve(Analysis):
    """FVU on test documents against rank, of the best map of each rank and of the truncated ridge map."""

    name = "rank_curve"

    @property
    def asked(self) -> bool:
        return self.settings.rank_curve

    @property
    def memory(self) -> int:
        return solving_bytes(*self.whole.stacks)

    def facts(self) -> Mapping[str, Any]:
        return {"rows": self.whole.facts, "bias": self.run.config.map.bias}

    def make(self) -> dict[str, Any]:
        whole, bias = self.whole, self.run.config.map.bias
        with self.run.session.stage("ranks"):
            best, weight = whole.reference_ridge.map, whole.reference_ridge.weight
            train, test = whole.train_moments, whole.moments["test"]
            path = reduced_rank_path(train, weight, bias=bias)
            fvu = path.fvu(test).tolist()
            ranks = sorted({*(2**i for i in range(20) if 2**i <= len(fvu)), len(fvu)})
            U, s, Vt = torch.linalg.svd(best.weight, full_matrices=False)
            truncated = []
            for rank in ranks:
                of_rank = (U[:, :rank] * s[:rank]) @ Vt[:rank]
                offset = best.points(train.mean_x) - of_rank @ train.mean_x
                truncated.append(
                    test.fvu_of(AffineMap(of_rank, offset if bias else torch.zeros_like(offset)))
                )
        return {
            "ranks": ranks,
            "fvu": [fvu[rank - 1] for rank in ranks],
            "truncated_fvu": truncated,
            # of a map that explains nothing no rank has a share
            "rank_95": path.rank_for(test, 0.95) if fvu[-1] < 1 else None,
        }
